/**
 * Automatic work of a control plane, with real guests: pools and late binding, time limits, damaged
 * files, and sandboxes whose VMM dies.
 */
import { existsSync } from 'node:fs';
import { open, readdir, readFile, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Log } from '../../src/base/log.ts';
import type { CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { countBeyond, startCounter } from '../support/counter.ts';
import { type MockUpstream, startMockUpstream } from '../support/mock-upstream.ts';
import { exec, python, SMALL, useControlPlane, vmmOf } from '../support/vm.ts';

const warnings: string[] = [];
const log: Log = {
  error: (message) => void warnings.push(message),
  warn: (message) => void warnings.push(message),
  info: () => undefined,
  debug: () => undefined,
};
const upstream: MockUpstream = await startMockUpstream();
const fixture = useControlPlane(() => upstream.target.baseUrl ?? '', log);
afterAll(() => upstream.close());

const WAIT = { timeout: 60_000, interval: 20 };

async function create(request: CreateRequest = {}): Promise<SandboxInfo> {
  return await fixture.control.create({ ...SMALL, ...request });
}

async function removeAll(): Promise<void> {
  const { control } = fixture;
  for (const { id } of await control.list()) await control.remove(id);
}

describe('pool', () => {
  const MEMBERS = 2;
  /** Unclaimed members, by their folders in the run directory. */
  const members = async (): Promise<string[]> => {
    await expect.poll(async () => (await fixture.control.pools())[0]?.ready, WAIT).toBe(MEMBERS);
    const owned = new Set((await fixture.control.list()).map(({ id }) => id));
    const all = await readdir(fixture.runtime.home.runDir);
    return all.filter((name) => /^[a-z0-9]{20}$/.test(name) && !owned.has(name));
  };
  beforeAll(async () => {
    await fixture.control.setPool({ min: MEMBERS, max: MEMBERS }, SMALL);
  });
  afterEach(removeAll);
  afterAll(() => fixture.control.setPool({ min: 0, max: 0 }, SMALL));

  it('a claimed member takes environment, models, limits and metadata from the request', async () => {
    const { control } = fixture;
    const waiting = await members();
    const made = await create({
      env: { OWN: 'mine' },
      metadata: { user: '7' },
      models: { defaultModel: 'm2', allow: ['m2'] },
      channelLimits: { guestToHostBytes: { size: 64 * 1024, refillPerSecond: 256 * 1024 } },
      timeoutMs: 3_600_000,
    });
    expect(made).toMatchObject({ origin: 'pool', timings: null, metadata: { user: '7' } });
    expect(waiting).toContain(made.id);
    expect(made.endsAtMs).toBeGreaterThan(Date.now() + 3_500_000);
    const guest = await control.guest(made.id);
    const env = await exec(guest, ['sh', '-c', 'echo $OWN $NEUROVISOR_MODEL $NEUROVISOR_SANDBOX_ID']);
    expect(env.stdout).toBe(`mine m2 ${made.id}\n`);

    const ask = (model: string) => `
import json, urllib.request, urllib.error
body = json.dumps({'model': '${model}', 'messages': [{'role': 'user', 'content': 'hi'}]}).encode()
request = urllib.request.Request('http://127.0.0.1:11434/v1/chat/completions', body,
                                 {'content-type': 'application/json'})
try: print(json.load(urllib.request.urlopen(request))['choices'][0]['message']['content'])
except urllib.error.HTTPError as error: print(error.code)
`;
    expect((await python(guest, ask('m2'))).stdout).toBe('hello\n');
    expect((await python(guest, ask('m1'))).stdout).toMatch(/^40[34]\n$/);
    expect(await control.usage(made.id)).toEqual([
      expect.objectContaining({ sandboxId: made.id, model: 'm2' }),
      ...(await control.usage(made.id)).slice(1),
    ]);
    await exec(guest, ['head', '-c', '500000', '/dev/zero']);
    expect((await control.channelStats(made.id)).throttledMsGuestToHost).toBeGreaterThan(500);
  });

  it.each([
    ['SIGKILL', {}],
    ['SIGSTOP', {}],
    ['SIGSTOP', { env: { OWN: 'mine' } }],
  ] as const)('a member whose VMM gets %s just before is not handed out (%o)', async (signal, request) => {
    const [first = '', second = ''] = await members();
    const pids = await Promise.all([first, second].map((id) => vmmOf(fixture, id)));
    for (const pid of pids) process.kill(pid, signal);
    const made = await create(request);
    expect([first, second]).not.toContain(made.id);
    const outcome = await python(await fixture.control.guest(made.id), 'print(6 * 7)');
    expect(outcome).toMatchObject({ stdout: '42\n', exitCode: 0 });
    await expect.poll(async () => (await fixture.control.pools())[0]?.ready, WAIT).toBe(MEMBERS);
    // They are ended, and not only forgotten; a pool that is full again does not wait for that.
    for (const pid of pids) await expect.poll(() => existsSync(`/proc/${pid}`), WAIT).toBe(false);
  });

  it('an empty pool starts a clone of the template instead', async () => {
    await fixture.control.setPool({ min: 0, max: 0 }, SMALL);
    expect((await create()).origin).toBe('clone');
    await fixture.control.setPool({ min: MEMBERS, max: MEMBERS }, SMALL);
  });
});

describe('lifetime', () => {
  afterEach(removeAll);

  it('a sandbox past its deadline ends, or is paused if requested; an idle one is paused with its programs', async () => {
    const { control } = fixture;
    const [killed, paused, idle] = await Promise.all([
      create({ timeoutMs: 1_500 }),
      create({ timeoutMs: 1_500, onTimeout: 'pause' }),
      create({ idleTimeoutMs: 1_500 }),
    ]);
    const begun = await startCounter(await control.guest(idle.id));
    for (const [{ id }, expected] of [
      [killed, { status: 'ended', end: { cause: 'timeout' } }],
      [paused, { status: 'paused', pausedTo: 'disk', endsAtMs: null }],
      [idle, { status: 'paused', pausedTo: 'disk' }],
    ] as const) {
      await expect.poll(async () => (await control.get(id)).status, WAIT).toBe(expected.status);
      expect(await control.get(id)).toMatchObject(expected);
    }
    expect(await readdir(fixture.runtime.home.runDir)).toEqual([]);
    expect((await countBeyond(await control.guest(idle.id), begun.n)).word).toBe(begun.word);
    await expect(control.guest(killed.id)).rejects.toMatchObject({ code: 'gone' });
  });

  it('a sandbox with an attached program is not idle', async () => {
    const { control } = fixture;
    const { id } = await create({ idleTimeoutMs: 1_000 });
    const guest = await control.guest(id);
    const cat = await guest.exec({ argv: ['cat'] });
    await sleep(3_000);
    expect((await control.get(id)).status).toBe('running');
    cat.stdin.end();
    await cat.exit;
    await expect.poll(async () => (await control.get(id)).status, WAIT).toBe('paused');
  });
});

describe('damage', () => {
  afterEach(removeAll);

  it('a paused sandbox with a damaged or missing file stays paused, and resumes once the file is repaired', async () => {
    const { control, dataDir } = fixture;
    const { id } = await create();
    const begun = await startCounter(await control.guest(id));
    await control.pause(id, 'disk');
    const dir = join(dataDir, 'files');
    const names = await readdir(dir);
    // State and disk; all RAM, or a difference and its base.
    expect([3, 4]).toContain(names.length);
    for (const name of names) {
      const path = join(dir, name);
      const undo = await spoil(path);
      await expect(control.resume(id), name).rejects.toMatchObject({ code: 'snapshot_damaged' });
      await expect(control.guest(id)).rejects.toMatchObject({ code: 'snapshot_damaged' });
      await expect(control.fork(id, { count: 1 })).rejects.toMatchObject({ code: 'snapshot_damaged' });
      expect(await control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'disk' });
      await undo();
    }
    await control.resume(id);
    expect((await countBeyond(await control.guest(id), begun.n)).word).toBe(begun.word);
    await control.pause(id, 'disk');
    for (const name of await readdir(dir)) await truncate(join(dir, name), 1000);
    await expect(control.resume(id)).rejects.toMatchObject({ code: 'snapshot_damaged' });
    await control.remove(id);
    expect(await readdir(dir)).toEqual([]);
  });
});

describe('a VMM that dies', () => {
  afterEach(removeAll);

  it('the sandbox ends with the cause, also if it was paused in memory', async () => {
    const { control } = fixture;
    const [one, two] = await Promise.all([create(), create()]);
    await control.pause(two.id, 'memory');
    for (const { id } of [one, two]) {
      process.kill(await vmmOf(fixture, id), 'SIGKILL');
      await expect.poll(async () => (await control.get(id)).status, WAIT).toBe('ended');
      expect((await control.get(id)).end).toMatchObject({ cause: 'vmm-killed' });
      await expect(control.resume(id)).rejects.toMatchObject({ code: 'gone' });
    }
    expect(await readdir(fixture.runtime.home.runDir)).toEqual([]);
  });
});

/** Flips a bit in the middle of a file's first data. @returns how to make it whole again */
async function spoil(path: string): Promise<() => Promise<void>> {
  const bytes = await readFile(path);
  const at = bytes.findIndex((byte) => byte !== 0);
  const flip = async (): Promise<void> => {
    await using file = await open(path, 'r+');
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
    await file.write(Buffer.from([(buffer[0] ?? 0) ^ 1]), 0, 1, at);
  };
  await flip();
  return flip;
}
