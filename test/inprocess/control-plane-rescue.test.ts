/** Files of a pause that another version made: a VM boots a copy of its disk, and the pause stays as it is. No VMs. */
import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ignore } from '../../src/base/ignore.ts';
import type { CreateRequest } from '../../src/sandbox/contract/control.ts';
import type { SandboxSpec } from '../../src/sandbox/contract/spec.ts';
import { RESCUE_IDLE_MS } from '../../src/sandbox/plane/rescue-vms.ts';
import type { StartAsked, StartGate } from '../../src/sandbox/start/start-gate.ts';
import { openGate } from '../../src/sandbox/start/start-gate.ts';
import { FakeHost, type FakeHostOptions } from '../support/fake-host.ts';
import { NOTHING } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';
import { temporaryDir } from '../support/store.ts';

interface World extends AsyncDisposable {
  readonly host: FakeHost;
  readonly id: string;
  /** Of all VMs of `host`. */
  readonly specs: readonly SandboxSpec[];
  stored(): Promise<Readonly<Record<string, string>>>;
}

/** A host with a sandbox that a host with another image paused. */
async function foreign(request: CreateRequest = {}, options: FakeHostOptions = {}): Promise<World> {
  const dataDir = await temporaryDir();
  let id: string;
  {
    await using older = await FakeHost.open({ dataDir, rootImageDigest: 'older', encrypts: options.encrypts ?? false });
    ({ id } = await older.control.create({ boot: true, ...request }));
    await older.control.pause(id, 'disk');
  }
  const specs: SandboxSpec[] = [];
  const host = await FakeHost.open({ dataDir, ...options, watch: ({ spec }) => specs.push(spec) });
  return { host, id, specs, stored: () => digests(dataDir), [Symbol.asyncDispose]: () => host[Symbol.asyncDispose]() };
}

/** Path of each saved file → its SHA-256. */
async function digests(dataDir: string): Promise<Readonly<Record<string, string>>> {
  const names = await readdir(join(dataDir, 'files'), { recursive: true });
  const found: Record<string, string> = {};
  for (const name of names.sort()) {
    const path = join(dataDir, 'files', name);
    if ((await stat(path)).isFile())
      found[name] = createHash('sha256')
        .update(await readFile(path))
        .digest('hex');
  }
  return found;
}

/** Lets the idle time pass until no VM is left. */
const untilIdle = (host: FakeHost): Promise<void> =>
  host.passTime(Promise.all(host.vms().map(async ({ exited }) => void (await exited))));

describe('LocalControlPlane.reader: of a pause that another version made', () => {
  it('boots one VM for all callers, without network, secrets, packages or models, and leaves the pause alone', async () => {
    await using world = await foreign({
      network: { mode: 'open' },
      secrets: [{ name: 'TOKEN', value: 'a-secret-of-the-sandbox', hosts: ['example.org'] }],
      env: { OWN: 'mine' },
      warm: ['numpy'],
    });
    const { host, id, specs } = world;
    const before = await world.stored();
    expect(Object.keys(before).length).toBeGreaterThan(0);
    await Promise.all([host.control.reader(id), host.control.reader(id)]);
    await host.control.reader(id);
    expect(host.started).toBe(1);
    expect(specs).toMatchObject([
      { network: null, secrets: [], packages: null, env: {}, warm: [], models: { allow: [], allowHosted: [] } },
    ]);
    expect(specs[0]?.id).not.toBe(id);
    expect(await host.control.list()).toMatchObject([{ id, status: 'paused', foreignPause: expect.any(String) }]);
    await untilIdle(host);
    await expect.poll(() => host.holdings()).toEqual(NOTHING);
    expect(await world.stored()).toEqual(before);
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'disk' });
    // It boots again for the next one.
    await host.control.reader(id);
    expect(host.started).toBe(2);
  });

  it('stays while it is used', async () => {
    await using world = await foreign();
    const { host, id, specs } = world;
    await host.control.reader(id);
    const vm = specs[0]?.id ?? '';
    for (let passed = 0; passed < 3 * RESCUE_IDLE_MS; passed += RESCUE_IDLE_MS / 4) {
      host.carry(vm);
      host.clock.advance(RESCUE_IDLE_MS / 4);
      await settle();
    }
    expect(host.vms()).toHaveLength(1);
    await untilIdle(host);
  });

  it('a caller that leaves does not take it from the others; the last one cancels the boot', async () => {
    await using world = await foreign();
    const { host, id } = world;
    const [first, second] = [new AbortController(), new AbortController()];
    const held = host.script.hold('start');
    const reading = [first, second].map(({ signal }) => host.control.reader(id, signal));
    for (const one of reading) one.catch((error: unknown) => ignore(error, 'looked at below'));
    await held.reached;
    first.abort(new Error('left'));
    await expect(reading[0]).rejects.toThrow('left');
    expect(host.queue.stats().running).toBe(1);
    second.abort(new Error('left, too'));
    await expect(reading[1]).rejects.toThrow('left, too');
    held.release();
    await expect.poll(() => host.holdings()).toEqual(NOTHING);
  });

  it.each(['remove', 'close'] as const)('%s: leaves no VM', async (how) => {
    await using world = await foreign();
    const { host, id } = world;
    await host.control.reader(id);
    if (how === 'remove') await host.control.remove(id);
    else await host.control.close();
    expect(await host.holdings()).toEqual(NOTHING);
  });

  it('its owner’s gate admits it as a resume, and gets its place back at its end', async () => {
    const asked: StartAsked[] = [];
    const events: string[] = [];
    const gate: StartGate = {
      ...openGate,
      admit: (start) => {
        asked.push(start);
        return { runsAs: () => events.push('runs'), release: () => events.push('released') };
      },
    };
    await using world = await foreign({ annotations: { tenant: 'a' } }, { gate });
    const { host, id } = world;
    await host.control.reader(id);
    expect(asked).toMatchObject([{ resumes: id, annotations: { tenant: 'a' } }]);
    expect(events).toEqual([]);
    await untilIdle(host);
    await expect.poll(() => events).toEqual(['released']);
  });

  it('a refusal of the gate is the caller’s, and leaves nothing', async () => {
    const refusal = new Error('no room');
    const admit = (): never => {
      throw refusal;
    };
    await using world = await foreign({}, { gate: { ...openGate, admit } });
    await expect(world.host.control.reader(world.id)).rejects.toBe(refusal);
    expect(await world.host.holdings()).toEqual(NOTHING);
  });

  it('of an encrypted one: a boot that fails leaves nothing, and the next caller boots again', async () => {
    await using world = await foreign({}, { encrypts: true });
    const { host, id } = world;
    const before = await world.stored();
    host.script.fail('hello');
    await expect(host.control.reader(id)).rejects.toThrow();
    expect(await host.holdings()).toEqual(NOTHING);
    await host.control.reader(id);
    expect(host.vms()).toHaveLength(1);
    await untilIdle(host);
    expect(await world.stored()).toEqual(before);
  });

  it('all else is refused with what to do instead', async () => {
    await using world = await foreign();
    const { host, id } = world;
    await expect(host.control.guest(id)).rejects.toMatchObject({
      code: 'snapshot_foreign',
      remedy: expect.stringContaining(`neurovisor cp ${id}:PATH .`),
    });
    expect(host.started).toBe(0);
  });

  it('of a pause that fits: resumes, as `guest` does', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await host.control.pause(id, 'disk');
    await host.control.reader(id);
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
  });
});
