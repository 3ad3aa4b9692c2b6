/** Commands on whole sandboxes, in this process: effects and output. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import { type CreateFlags, create, createRequest } from '../../src/cli/commands/create.ts';
import { inspect } from '../../src/cli/commands/history.ts';
import { host, poolList, poolSet, processes } from '../../src/cli/commands/host.ts';
import { list, pause, remove, resume } from '../../src/cli/commands/sandboxes.ts';
import { fork, snapshotCreate, snapshotList, snapshotRemove } from '../../src/cli/commands/snapshot.ts';
import { update } from '../../src/cli/commands/update.ts';
import type { CreateRequest, PoolInfo } from '../../src/sandbox/contract/control.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';
import { testCli } from '../support/test-cli.ts';

const NO_FLAGS: CreateFlags = { env: [], warm: [], alias: [], allowModel: [], allowOut: [], denyOut: [], label: [] };
const usage = expect.objectContaining({ code: 'usage' });

let control: FakeControlPlane;
let asked: CreateRequest[];

beforeEach(() => {
  asked = [];
  control = new FakeControlPlane({ beforeCreate: (request) => void asked.push(request) });
});
afterEach(async () => {
  await control[Symbol.asyncDispose]();
});

const newId = async (request: CreateRequest = {}) => (await control.create(request)).id;

describe('update', () => {
  it('changes the memory-pressure action, alone or with network limits', async () => {
    const { cli } = testCli();
    const id = await newId({ network: { mode: 'open' } });
    const none = { allowOut: [], denyOut: [], label: [] };
    await update(cli, control, id, { ...none, onMemoryPressure: 'pause' });
    expect(await control.get(id)).toMatchObject({ onMemoryPressure: 'pause' });
    const both = { ...none, netLimit: ['bytes=1K'], onMemoryPressure: 'snapshot' };
    await update(cli, control, id, both);
    expect(await control.get(id)).toMatchObject({
      onMemoryPressure: 'snapshot',
      network: { limits: { bytesMax: 1024 } },
    });
    const grow = update(cli, control, id, { ...none, onMemoryPressure: 'grow' });
    await expect(grow).rejects.toMatchObject({ code: 'spec_invalid' });
  });

  it('changes the network of a sandbox named by prefix', async () => {
    const { cli, stdout } = testCli();
    const id = await newId();
    const flags = { allowOut: ['a.example'], denyOut: [], label: [] };
    expect(await update(cli, control, id.slice(0, 12), flags)).toBe(0);
    expect(stdout()).toBe(`${id}\n`);
    expect((await control.get(id)).network).toMatchObject({ allow: ['a.example'] });
    await update(cli, control, id, { ...flags, allowOut: [], netLimit: ['bytes=1K'] });
    expect((await control.get(id)).network).toMatchObject({ allow: ['a.example'], limits: { bytesMax: 1024 } });
    await update(cli, control, id, { allowOut: [], denyOut: [], label: [], net: 'none' });
    expect((await control.get(id)).network).toBeNull();
  });
});

describe('create', () => {
  it('prints only the ID on stdout, and how it started on stderr', async () => {
    const { cli, stdout, stderr } = testCli();
    expect(await create(cli, control, NO_FLAGS)).toBe(0);
    expect(stdout()).toMatch(/^[a-z0-9]{20}\n$/);
    expect(stderr()).toBe('taken from the pool in 6 ms\n');
    expect((await control.list())[0]?.id).toBe(stdout().trim());
  });

  it('--name: names the sandbox in ls, inspect and other commands', async () => {
    expect(await create(testCli().cli, control, { ...NO_FLAGS, name: 'web' })).toBe(0);
    const listed = testCli();
    await list(listed.cli, control, { label: [] });
    expect(listed.stdout()).toMatch(/^[a-z0-9]{20} +web +running/m);
    const shown = testCli();
    await inspect(shown.cli, control, 'web');
    expect(shown.stdout()).toMatch(/^name +web$/m);
    await expect(create(testCli().cli, control, { ...NO_FLAGS, name: 'web' })).rejects.toMatchObject({
      code: 'name_taken',
    });
    for (const name of ['a'.repeat(20), 'a/b', '-a']) {
      await expect(create(testCli().cli, control, { ...NO_FLAGS, name })).rejects.toThrow(usage);
    }
    expect(await remove(testCli().cli, control, ['web'], { label: [] })).toBe(0);
    expect(await control.list()).toEqual([]);
  });

  it('forwards all options', async () => {
    const { cli } = testCli({ env: { TOKEN: 'x' } });
    await create(cli, control, {
      ...{
        env: ['TOKEN', 'A=b'],
        warm: ['numpy'],
        alias: ['gpt=llama'],
        allowModel: ['llama'],
        allowHosted: ['gpt-5-mini'],
        allowField: ['store'],
        allowOut: [],
        denyOut: [],
      },
      label: ['user=42', 'empty='],
      cpus: '2',
      memory: '1G',
      disk: '4G',
      rate: '1M',
      diskLimit: ['rate=2M,iops=50'],
      timeout: '2h',
      onTimeout: 'pause',
      idleTimeout: '5m',
      autoResume: false,
      boot: true,
      model: 'llama',
    });
    const bucket = { size: 1024 * 1024, refillPerSecond: 1024 * 1024 };
    expect(asked).toEqual([
      {
        cpus: 2,
        memoryMib: 1024,
        diskMib: 4096,
        warm: ['numpy'],
        env: { TOKEN: 'x', A: 'b' },
        models: {
          defaultModel: 'llama',
          aliases: { gpt: 'llama' },
          allow: ['llama'],
          allowHosted: ['gpt-5-mini'],
          allowFields: ['store'],
        },
        channelLimits: { guestToHostBytes: bucket, hostToGuestBytes: bucket },
        diskLimits: { bytesPerSecond: 2 * 1024 * 1024, opsPerSecond: 50 },
        metadata: { user: '42', empty: '' },
        timeoutMs: 7_200_000,
        onTimeout: 'pause',
        idleTimeoutMs: 300_000,
        autoResume: false,
        snapshot: undefined,
        boot: true,
      },
    ]);
  });

  it('--template: is part of the request, and excludes --snapshot, --boot and --image', async () => {
    const { cli, stdout } = testCli({ json: true });
    await create(cli, control, { ...NO_FLAGS, template: 'data' });
    expect(JSON.parse(stdout())).toMatchObject({ template: 'data' });
    for (const more of [{ snapshot: 'base' }, { boot: true }, { image: 'alpine' }]) {
      const flags = { ...NO_FLAGS, template: 'data', ...more };
      expect(() => createRequest(cli, flags)).toThrow('mutually exclusive');
    }
  });

  it('after an unrequested boot, says how to clone the next one', async () => {
    const { cli, stderr } = testCli();
    const booting = await control.create({ boot: true });
    const flags = { ...NO_FLAGS, cpus: '2', memory: '1G', warm: ['numpy', 'json'] };
    const slow = Object.assign(Object.create(control), { create: async () => booting });
    await create(cli, slow as FakeControlPlane, flags);
    const words = 'neurovisor template create --cpus 2 --memory 1G --warm numpy --warm json';
    expect(stderr()).toBe(`booted in 6 ms\nno template of this kind; to clone the next one, run: ${words}\n`);
    const asked = testCli();
    await create(asked.cli, slow as FakeControlPlane, { ...flags, boot: true });
    expect(asked.stderr()).toBe('booted in 6 ms\n');
  });

  it('--model: rejects an unknown model and lists the offered ones', async () => {
    await expect(create(testCli().cli, control, { ...NO_FLAGS, model: 'nothere' })).rejects.toMatchObject({
      code: 'model_unknown',
      remedy: 'use one of: llama, qwen',
    });
    expect(await control.list()).toEqual([]);
    expect(await create(testCli().cli, control, { ...NO_FLAGS, model: 'qwen' })).toBe(0);
  });

  it('--snapshot: finds a snapshot by name', async () => {
    const { id } = await control.snapshot(await newId(), { name: 'ready' });
    const { cli, stdout } = testCli({ json: true });
    await create(cli, control, { ...NO_FLAGS, snapshot: 'ready' });
    expect(JSON.parse(stdout())).toMatchObject({ origin: 'snapshot', snapshot: id });
  });

  it.each<[string, Partial<CreateFlags>]>([
    ['a label without =', { label: ['x'] }],
    ['a bad size', { memory: 'lots' }],
    ['a snapshot and a size', { snapshot: 'x', memory: '1G' }],
    ['a snapshot and --boot', { snapshot: 'x', boot: true }],
    ['a snapshot that is not there', { snapshot: 'none' }],
    ['a model file', { model: 'x.gguf' }],
    ['a bad time', { timeout: 'soon' }],
    ['no time', { timeout: '0' }],
    ['what happens when a time is over that there is not', { onTimeout: 'pause' }],
    ['no memory to speak of', { memory: '1M' }],
  ])('%s is refused', async (_what, flags) => {
    const { cli } = testCli();
    await expect(create(cli, control, { ...NO_FLAGS, ...flags })).rejects.toThrow(usage);
    expect(await control.list()).toEqual([]);
  });
});

describe('ls', () => {
  it('prints a row per sandbox; ended ones only with -a', async () => {
    const one = await newId({ metadata: { user: '42' }, timeoutMs: 600_000 });
    const two = await newId();
    const three = await newId();
    await control.pause(two, 'disk');
    await control.remove(three);
    const short = testCli();
    expect(await list(short.cli, control, { label: [] })).toBe(0);
    expect(short.stdout()).toMatch(/^ID +NAME +STATUS +AGE +ENDS IN +CPUS +MEMORY +ORIGIN +IMAGE +LABELS$/m);
    expect(short.stdout()).toMatch(new RegExp(`^${one} +- +running +0 s +10 min +1 +512 MiB +pool +- +user=42$`, 'm'));
    expect(short.stdout()).toMatch(new RegExp(`^${two} +- +paused \\(disk\\) `, 'm'));
    expect(short.stdout()).not.toContain(three);
    const all = testCli();
    await list(all.cli, control, { label: [], all: true });
    expect(all.stdout()).toMatch(new RegExp(`^${three} +- +ended \\(stopped\\) `, 'm'));
  });

  it('without sandboxes, says how to create one', async () => {
    const { cli, stderr } = testCli();
    await list(cli, control, { label: [] });
    expect(stderr()).toContain('neurovisor create');
  });

  it('--label filters; -o json prints all fields', async () => {
    const one = await newId({ metadata: { user: '42', job: 'x' } });
    await newId({ metadata: { user: '43' } });
    const { cli, stdout } = testCli({ json: true });
    await list(cli, control, { label: ['user=42'] });
    expect(JSON.parse(stdout())).toMatchObject([{ id: one, metadata: { user: '42', job: 'x' } }]);
  });
});

describe('ls -q, --status', () => {
  it('-q prints only IDs; --status filters, also ended ones', async () => {
    const [one, two, three] = [await newId(), await newId(), await newId()];
    await control.pause(one, 'disk');
    await control.remove(two);
    const quiet = testCli();
    expect(await list(quiet.cli, control, { label: [], quiet: true })).toBe(0);
    expect(quiet.stdout()).toBe(`${three}\n${one}\n`);
    const filtered = testCli();
    await list(filtered.cli, control, { label: [], quiet: true, status: ['paused', 'ended'] });
    expect(filtered.stdout()).toBe(`${two}\n${one}\n`);
    const json = testCli({ json: true });
    await list(json.cli, control, { label: [], quiet: true, status: ['running'] });
    expect(JSON.parse(json.stdout())).toEqual([three]);
    const none = testCli();
    await list(none.cli, control, { label: [], quiet: true, status: ['saving'] });
    expect([none.stdout(), none.stderr()]).toEqual(['', '']);
  });

  it('an unknown status is refused with the known ones', async () => {
    const wrong = list(testCli().cli, control, { label: [], status: ['stopped'] });
    await expect(wrong).rejects.toMatchObject({ code: 'usage', remedy: expect.stringContaining('running, saving') });
  });
});

describe('rm', () => {
  it('removes several by prefix, each once', async () => {
    const [one, two, three] = [await newId(), await newId(), await newId()];
    const { cli, stdout } = testCli();
    expect(await remove(cli, control, [one.slice(0, 10), two, two], { label: [] })).toBe(0);
    expect(stdout()).toBe(`${one}\n${two}\n`);
    expect((await control.list()).map(({ id }) => id)).toEqual([three]);
  });

  it('--all: removes paused sandboxes, too', async () => {
    await control.pause(await newId(), 'disk');
    await newId();
    expect(await remove(testCli().cli, control, [], { all: true, label: [] })).toBe(0);
    expect(await control.list()).toEqual([]);
  });

  it('--label: removes what has all the labels, and says how many', async () => {
    const one = await newId({ metadata: { user: '42', job: 'x' } });
    const two = await newId({ metadata: { user: '42', job: 'y' } });
    const { cli, stdout, stderr } = testCli();
    expect(await remove(cli, control, [], { label: ['user=42', 'job=x'] })).toBe(0);
    expect([stdout(), stderr()]).toEqual([`${one}\n`, '1 sandbox to remove\n']);
    const none = testCli();
    expect(await remove(none.cli, control, [], { label: ['user=43'] })).toBe(0);
    expect([none.stdout(), none.stderr()]).toEqual(['', '0 sandboxes to remove\n']);
    await expect(remove(testCli().cli, control, [two], { label: ['user=42'] })).rejects.toThrow(usage);
    await expect(remove(testCli().cli, control, [], { all: true, label: ['user=42'] })).rejects.toThrow(usage);
    await expect(remove(testCli().cli, control, [], { label: ['user'] })).rejects.toThrow(usage);
    expect((await control.list()).map(({ id }) => id)).toEqual([two]);
  });

  it('an unknown ID, no ID, or IDs with --all remove nothing', async () => {
    const one = await newId();
    await expect(remove(testCli().cli, control, [one, 'zzzz'], { label: [] })).rejects.toThrow(usage);
    await expect(remove(testCli().cli, control, [], { label: [] })).rejects.toThrow(usage);
    await expect(remove(testCli().cli, control, [one], { all: true, label: [] })).rejects.toThrow(usage);
    expect(await control.list()).toHaveLength(1);
  });

  it('reports an ended sandbox, also by prefix, with a remedy', async () => {
    const one = await newId();
    await control.remove(one);
    for (const text of [one, one.slice(0, 12)]) {
      const { cli, stdout, stderr } = testCli();
      expect(await remove(cli, control, [text], { label: [] })).toBe(1);
      expect(stdout()).toBe('');
      expect(stderr()).toMatch(new RegExp(`sandbox ${one} has ended: removed\nfix: .*ls -a`));
    }
  });

  it('reports a failure, removes the others and exits with 1', async () => {
    const one = await newId();
    const none = 'z'.repeat(20);
    const { cli, stdout, stderr } = testCli();
    expect(await remove(cli, control, [none, one], { label: [] })).toBe(1);
    expect(stdout()).toBe(`${one}\n`);
    expect(stderr()).toContain(none);
    const json = testCli({ json: true });
    expect(await remove(json.cli, control, [none], { label: [] })).toBe(1);
    expect(JSON.parse(json.stdout())).toMatchObject([{ ok: false, id: none, code: 'not_found' }]);
  });
});

describe('pause, resume', () => {
  it('pauses to disk by default, and resumes', async () => {
    const id = await newId();
    expect(await pause(testCli().cli, control, [id], {})).toBe(0);
    expect(await control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'disk' });
    const { cli, stdout } = testCli({ json: true });
    expect(await resume(cli, control, [id], {})).toBe(0);
    expect(JSON.parse(stdout())).toMatchObject([{ ok: true, id, sandbox: { status: 'running' } }]);
    await pause(testCli().cli, control, [id], { to: 'memory' });
    expect(await control.get(id)).toMatchObject({ pausedTo: 'memory' });
    await resume(testCli().cli, control, [id], {});
    await pause(testCli().cli, control, [id], { to: 'disk-only' });
    expect(await control.get(id)).toMatchObject({ pausedTo: 'disk-only' });
    expect(await resume(testCli().cli, control, [id], { reboot: true })).toBe(0);
    expect(await control.get(id)).toMatchObject({ status: 'running' });
  });

  it('reports a sandbox that is already paused', async () => {
    const id = await newId();
    await control.pause(id, 'disk');
    const { cli, stdout, stderr } = testCli();
    expect(await pause(cli, control, [id], {})).toBe(1);
    expect(stdout()).toBe('');
    expect(stderr()).toContain('it is paused');
  });
});

describe('snapshot', () => {
  it('creates, lists and removes snapshots', async () => {
    const sandbox = await newId();
    const made = testCli();
    expect(await snapshotCreate(made.cli, control, sandbox, { name: 'ready' })).toBe(0);
    const id = made.stdout().trim();
    expect(id).toMatch(/^[a-z0-9]{20}$/);
    expect(made.stderr()).toBe('4.0 KiB on disk\n');

    const listed = testCli();
    await snapshotList(listed.cli, control);
    expect(listed.stdout()).toMatch(new RegExp(`^${id} +ready +${sandbox} +0 s +1 +512 MiB +4\\.0 KiB +yes$`, 'm'));
    await snapshotCreate(testCli().cli, control, sandbox, { name: 'files', diskOnly: true });
    const both = testCli();
    await snapshotList(both.cli, control);
    expect(both.stdout()).toMatch(/ files .* disk only +4\.0 KiB +yes$/m);
    await snapshotRemove(testCli().cli, control, ['files']);
    await expect(snapshotRemove(testCli().cli, control, ['none'])).rejects.toThrow(usage);
    expect(await snapshotRemove(testCli().cli, control, ['ready'])).toBe(0);
    expect(await control.snapshots()).toEqual([]);
  });

  it('rejects a taken name', async () => {
    const sandbox = await newId();
    await control.snapshot(sandbox, { name: 'ready' });
    await expect(snapshotCreate(testCli().cli, control, sandbox, { name: 'ready' })).rejects.toMatchObject({
      code: 'name_taken',
    });
  });
});

describe('fork', () => {
  it('--name: names the copy', async () => {
    const id = await newId();
    expect(await fork(testCli().cli, control, id, { name: 'copy', label: [] })).toBe(0);
    expect(await control.list({ name: 'copy' })).toMatchObject([{ parent: id }]);
    await expect(fork(testCli().cli, control, id, { name: 'a/b', label: [] })).rejects.toThrow(usage);
  });

  it('prints a line per fork', async () => {
    const id = await newId({ metadata: { user: '42' } });
    const { cli, stdout } = testCli();
    expect(await fork(cli, control, id, { count: 3, label: [] })).toBe(0);
    const ids = stdout().trim().split('\n');
    expect(new Set(ids).size).toBe(3);
    expect(await control.get(ids[0] ?? '')).toMatchObject({ origin: 'fork', parent: id, metadata: { user: '42' } });
  });

  it('reports failed forks and exits with 1', async () => {
    const id = await newId();
    const [good] = await control.fork(id, { count: 1 });
    const bad = { ok: false, code: 'start_failed', message: 'no memory' } as const;
    const some = { fork: async () => (good === undefined ? [] : [good, bad]), list: () => control.list() };
    const partial = Object.assign(Object.create(control), some) as FakeControlPlane;
    const { cli, stdout, stderr } = testCli();
    expect(await fork(cli, partial, id, { count: 2, label: [] })).toBe(1);
    expect(stdout().trim().split('\n')).toHaveLength(1);
    expect(stderr()).toBe('neurovisor: fork 2 of 2: no memory\n');
    const json = testCli({ json: true });
    expect(await fork(json.cli, partial, id, { count: 2, label: [] })).toBe(1);
    expect(JSON.parse(json.stdout())).toEqual([good, bad]);
  });
});

describe('pool', () => {
  it('sets a pool and lists it', async () => {
    const flags = { warm: ['numpy'], memory: '1G' };
    expect(await poolSet(testCli().cli, control, { min: 2, max: 8 }, flags)).toBe(0);
    const { cli, stdout } = testCli();
    await poolList(cli, control);
    const heads = 'TEMPLATE +CPUS +MEMORY +MIN +MAX +TARGET +READY +STARTING +HITS +MISSES';
    expect(stdout()).toMatch(new RegExp(`^${heads} +DISCARDED +IMAGE +WARM$`, 'm'));
    expect(stdout()).toMatch(/ 1 +1024 MiB +2 +8 +2 +2 +0 +0 +0 +0 +- +numpy$/m);
  });

  it('-o json: set prints the pool, ls prints all', async () => {
    const set = testCli({ json: true });
    await poolSet(set.cli, control, { min: 1, max: 1 }, { warm: [] });
    const ls = testCli({ json: true });
    await poolList(ls.cli, control);
    expect(JSON.parse(ls.stdout())).toEqual([JSON.parse(set.stdout())]);
  });

  it('set --template: names the template, and shows its name', async () => {
    const limits = { min: 1, max: 2 };
    const { cli, stdout } = testCli();
    expect(await poolSet(cli, control, limits, { warm: [], template: 'data' })).toBe(0);
    expect(stdout()).toMatch(/^data /m);
    expect(await control.pools()).toMatchObject([{ name: 'data' }]);
  });

  it('shows progress only if set takes long', async () => {
    const clock = new FakeClock();
    const quick = testCli();
    await poolSet(quick.cli, control, { min: 1, max: 1 }, { warm: [] }, clock);
    expect(quick.stderr()).toBe('');
    const built = Promise.withResolvers<PoolInfo>();
    const slow = Object.assign(Object.create(control), { setPool: () => built.promise });
    const { cli, stderr } = testCli();
    const setting = poolSet(cli, slow as FakeControlPlane, { min: 1, max: 1 }, { warm: [] }, clock);
    // Requirements are read first.
    await sleep(0);
    clock.advance(1000);
    expect(stderr()).toContain('template of this pool (built once)\n');
    built.resolve(await control.setPool({ min: 1, max: 1 }));
    expect(await setting).toBe(0);
    expect(stderr()).toMatch(/✓ .*template of this pool/);
  });

  it('rejects a minimum above the maximum', async () => {
    await expect(poolSet(testCli().cli, control, { min: 3, max: 2 }, { warm: [] })).rejects.toThrow(usage);
  });
});

describe('host, ps', () => {
  it('host: prints a line per fact', async () => {
    await newId();
    const { cli, stdout } = testCli();
    expect(await host(cli, control)).toBe(0);
    expect(stdout()).toMatch(/^VMM +none \(agents as processes\)$/m);
    expect(stdout()).toMatch(/^models +none: llama, qwen$/m);
    expect(stdout()).toMatch(/^sandboxes +1, 0 paused$/m);
  });

  it('ps: lists programs, without control characters', async () => {
    const id = await newId();
    const guest = await control.guest(id);
    const argv = ['sleep', '600', '--', '\x1b[2J\nevil'];
    const running = await guest.exec({ argv: ['sh', '-c', 'sleep 600', ...argv], detached: true });
    const { cli, stdout } = testCli();
    expect(await processes(cli, control, id)).toBe(0);
    expect(stdout()).toMatch(new RegExp(`^${running.pid} +\\w+ +\\d+ s +detached +/\\S* +sh -c `, 'm'));
    expect(stdout()).toContain('?[2J evil');
    expect(stdout().trim().split('\n')).toHaveLength(2);
    running.kill();
  });

  it('inspect: shows the parent of a fork and its lifetime', async () => {
    const { cli, stdout } = testCli();
    const { id } = await control.create({});
    const [copy] = await control.fork(id, { count: 1, timeoutMs: 7_200_000 });
    await inspect(cli, control, copy?.ok ? copy.sandbox.id : '');
    expect(stdout()).toMatch(new RegExp(`^fork of +${id}$`, 'm'));
    expect(stdout()).toMatch(/^timeout +ends in \d+ (h|min)$/m);
  });

  it('forwards an error of the daemon', async () => {
    await using sick = new FakeControlPlane({
      before: () => {
        throw new SandboxError('busy', 'too much is going on');
      },
    });
    await expect(host(testCli().cli, sick)).rejects.toMatchObject({ code: 'busy' });
  });
});
