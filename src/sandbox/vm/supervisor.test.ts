import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { silentLog } from '../../base/log.ts';
import type { PackagePolicy } from '../../base/request/package-policy.ts';
import type { PackageFetch } from '../../egress/packages/gateway.ts';
import type { Guest, GuestClosed, GuestListener } from '../../machine/guest/link.ts';
import type { Vm, VmExit, VmmDriver, VmSpec } from '../../machine/vmm/driver.ts';
import { ByteTail } from '../../machine/vmm/tail.ts';
import { packagePolicy } from '../contract/packages.ts';
import type { SandboxParts } from '../contract/parts.ts';
import { makeSpec, type SandboxOptions } from '../contract/spec.ts';
import type { SandboxState } from './lifecycle.ts';
import { Supervisor } from './supervisor.ts';

type Step = 'workspace' | 'overlay' | 'listener' | 'bridge' | 'vm' | 'hello';

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Parts without a VM: they record the resources in use, and fail or hang as configured. */
function fakeParts(trouble: { fail?: Step; hang?: Step } = {}) {
  const held = new Set<string>();
  const releases: string[] = [];
  const clock = new FakeClock();
  const exited = Promise.withResolvers<VmExit>();
  const closed = Promise.withResolvers<GuestClosed>();
  const updates = { fail: false };
  const vmm = { isAlive: true };
  const packages = { policies: [] as (PackagePolicy | null)[], fetch: (_fetch: PackageFetch): void => undefined };
  const step = async (name: Step, signal?: AbortSignal): Promise<void> => {
    if (trouble.fail === name) throw new Error(`${name} failed`);
    if (trouble.hang !== name) return;
    await new Promise((_, reject) => {
      signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
  };
  const hold = (name: string): (() => Promise<void>) => {
    held.add(name);
    return () => {
      if (held.delete(name)) releases.push(name);
      return Promise.resolve();
    };
  };
  const makeVm = (): Vm => {
    const release = hold('vm');
    return {
      id: 'x',
      pid: 4242,
      channelPath: '/c',
      timings: { spawnedMs: 5, runningMs: 30 },
      exited: exited.promise,
      isAlive: () => vmm.isAlive,
      consoleTail: () => 'Kernel panic - not syncing\n',
      logs: { console: new ByteTail(1), vmm: new ByteTail(1) },
      terminal: null,
      pause: () => Promise.resolve(),
      resume: () => Promise.resolve(),
      setChannelLimits: () => Promise.resolve(),
      setDiskLimits: () => Promise.resolve(),
      channelStats: () => Promise.reject(new Error('not used')),
      kill: release,
    };
  };
  const guest = {
    info: { kernelToInitMs: 700 },
    update: async () => {
      if (updates.fail) throw new Error('the guest hangs');
    },
    closed: closed.promise,
    events: () => () => undefined,
    close: () => void hold('guest')(),
  } as unknown as Guest;
  const listener = (): GuestListener => ({
    ready: async (signal) => {
      await step('hello', signal);
      clock.advance(1000);
      return guest;
    },
    setIdentity: () => undefined,
    close: hold('listener'),
  });
  const driver = {
    capabilities: {},
    start: async (spec: VmSpec, signal?: AbortSignal) => {
      await spec.memoryReady;
      await step('vm', signal);
      return makeVm();
    },
  } as unknown as VmmDriver;
  const parts: SandboxParts = {
    driver,
    kernelPath: '/k',
    rootImagePath: '/r',
    makeWorkspace: async () => {
      await step('workspace');
      const removeDir = hold('workspace');
      return {
        dir: '/d',
        channelPath: '/d/v',
        overlayPath: '/d/o',
        environmentPath: '/d/e',
        recordVmm: () => Promise.resolve(),
        remove: removeDir,
      };
    },
    makeOverlay: () => step('overlay'),
    makeMemory: () => ({ fd: 9, path: '/m', usedBytes: () => 0, close: hold('RAM') }),
    allocateCid: () => {
      held.add('cid');
      return { cid: 3, release: () => void held.delete('cid') };
    },
    listenForGuest: async () => {
      await step('listener');
      return listener();
    },
    attachBridge: async () => {
      await step('bridge');
      return { setModels: () => undefined, setSuspended: () => undefined, inFlight: () => 0, close: hold('bridge') };
    },
    attachPackages: async (_id, _channel, policy, onFetch) => {
      packages.policies.push(policy);
      packages.fetch = onFetch;
      return { setPolicy: (changed) => packages.policies.push(changed), close: hold('packages') };
    },
    clock,
    log: silentLog,
  };
  return { parts, held, releases, clock, exited, closed, packages, updates, vmm };
}

function supervise(fake: ReturnType<typeof fakeParts>, options: SandboxOptions = {}) {
  const sandbox = new Supervisor(makeSpec(options, 2), fake.parts);
  const states: SandboxState[] = [];
  sandbox.onTransition(({ state }) => states.push(state));
  return { sandbox, states };
}

/** A sandbox whose connection broke and whose VMM exited half a second ago, unnoticed so far. */
async function lostWithItsVmm() {
  const fake = fakeParts();
  const { sandbox } = supervise(fake);
  await sandbox.start();
  fake.vmm.isAlive = false;
  fake.closed.resolve({ reason: 'lost', detail: '' });
  await settle();
  fake.clock.advance(500);
  await settle();
  return { fake, sandbox };
}

describe('Supervisor', () => {
  it('start: passes through the states and measures each phase', async () => {
    const fake = fakeParts();
    const { sandbox, states } = supervise(fake);
    await sandbox.start();
    expect(states).toEqual(['booting', 'ready']);
    expect(sandbox.timings).toEqual({
      origin: 'boot',
      prepareMs: 0,
      vmmMs: 30,
      kernelMs: 700,
      agentMs: 270,
      totalMs: 1000,
    });
    expect(sandbox.guest()).toBeDefined();
  });

  it('stop: releases everything once, the VM before its resources', async () => {
    const fake = fakeParts();
    const { sandbox, states } = supervise(fake);
    await sandbox.start();
    const [one, two] = await Promise.all([sandbox.stop(), sandbox.stop()]);
    expect(one).toBe(two);
    expect(one.cause).toBe('stopped');
    expect([...fake.held]).toEqual([]);
    expect(fake.releases.indexOf('vm')).toBeLessThan(fake.releases.indexOf('workspace'));
    expect(fake.releases.indexOf('vm')).toBeLessThan(fake.releases.indexOf('bridge'));
    expect(states).toEqual(['booting', 'ready', 'stopping', 'gone']);
  });

  it('packages: a change reaches the gateway; if the guest does not answer, no new rights are granted', async () => {
    const { packages, parts, updates } = fakeParts();
    const sandbox = new Supervisor(makeSpec({ packages: { ecosystems: ['pip'] } }, 2), parts);
    await sandbox.start();
    const more = packagePolicy({ ecosystems: ['pip', 'npm'] });
    await sandbox.settings.setPackages(more);
    expect(packages.policies.at(-1)).toEqual(more);
    expect(sandbox.spec.packages).toEqual(more);
    updates.fail = true;
    await expect(sandbox.settings.setPackages(packagePolicy({ ecosystems: ['go'] }))).rejects.toThrow('hangs');
    expect([packages.policies.at(-1), sandbox.spec.packages]).toEqual([more, more]);
    await expect(sandbox.settings.setPackages(null)).rejects.toThrow('hangs');
    expect([packages.policies.at(-1), sandbox.spec.packages]).toEqual([null, null]);
    await sandbox.stop();
  });

  it('packages: a pool member gets the policy of its sandbox, and a fetch is an event', async () => {
    const { packages, parts } = fakeParts();
    const sandbox = new Supervisor(makeSpec({}, 2), parts);
    await sandbox.start();
    const events: unknown[] = [];
    sandbox.events.listen((event) => events.push(event));
    await sandbox.settings.bind(makeSpec({ packages: { ecosystems: ['pip'], deny: ['torch'] } }, 2));
    expect(packages.policies).toEqual([
      null,
      expect.objectContaining({ ecosystems: ['pip'], deny: ['torch'] }) as unknown,
    ]);
    const fetch = { ecosystem: 'pip', name: 'six', version: '1', file: 'f', outcome: 'ok' } as const;
    packages.fetch({ ...fetch, digest: '', bytes: 1, cached: false });
    expect(events).toEqual([{ type: 'package', ...fetch, digest: '', bytes: 1, cached: false }]);
    await sandbox.stop();
  });

  const steps: Step[] = ['workspace', 'overlay', 'listener', 'bridge', 'vm', 'hello'];
  it.each(steps)('start: a failing %s releases everything and reports the reason', async (fail) => {
    const fake = fakeParts({ fail });
    const { sandbox } = supervise(fake);
    await expect(sandbox.start()).rejects.toMatchObject({
      code: 'start_failed',
      cause: { message: expect.stringContaining(`${fail} failed`) },
    });
    expect([...fake.held]).toEqual([]);
    expect(sandbox.state).toBe('failed');
    expect((await sandbox.ended).cause).toBe('start-failed');
  });

  it('start: a clone copies RAM and disk, loads the state, and unlinks its RAM', async () => {
    const fake = fakeParts();
    const copied: string[] = [];
    const source = {
      snapshot: { statePath: '/t/state', stateSha256: 'x', machine: 'm' },
      copyMemory: async (path: string) => void copied.push(path),
      copyDisk: async (path: string) => void copied.push(path),
    };
    const started: unknown[] = [];
    const { start } = fake.parts.driver;
    const driver = {
      ...fake.parts.driver,
      start: (spec: VmSpec, signal?: AbortSignal) => {
        started.push(spec);
        return start(spec, signal);
      },
    };
    const makeOverlay = (): Promise<void> => Promise.reject(new Error('a clone has a disk'));
    const parts = { ...fake.parts, driver, makeOverlay, template: source };
    const sandbox = new Supervisor(makeSpec({}, 2), parts);
    await sandbox.start();
    expect(copied.sort()).toEqual(['/d/o', '/m']);
    expect(started).toMatchObject([{ memoryFd: 9, snapshot: source.snapshot }]);
    expect(fake.releases).toEqual([]);
    expect(sandbox.timings).toMatchObject({ origin: 'clone', kernelMs: 0 });
    await sandbox.stop();
    expect([...fake.held]).toEqual([]);
  });

  it('start: a clone that maps its RAM copies only the disk', async () => {
    const fake = fakeParts();
    const template = {
      snapshot: { statePath: '/t/state', stateSha256: 'x', machine: 'm' },
      copyMemory: () => Promise.reject(new Error('it is mapped')),
      mapMemory: async () => {
        fake.held.add('mapping');
        const close = async (): Promise<void> => void fake.held.delete('mapping');
        return { path: '/t/ram', copyInto: () => Promise.resolve(), close };
      },
      copyDisk: () => Promise.resolve(),
    };
    const started: VmSpec[] = [];
    const { start } = fake.parts.driver;
    const driver = {
      ...fake.parts.driver,
      capabilities: { mapsMemory: true } as VmmDriver['capabilities'],
      start: (spec: VmSpec, signal?: AbortSignal) => {
        started.push(spec);
        return start(spec, signal);
      },
    };
    const parts = { ...fake.parts, driver, template, sharers: 'us' };
    const sandbox = new Supervisor(makeSpec({}, 2), parts);
    expect(sandbox.sharers).toBeNull();
    await sandbox.start();
    expect(sandbox.sharers).toBe('us');
    expect(started).toMatchObject([{ memoryFd: 9, snapshot: { memoryPath: '/t/ram' } }]);
    expect(started[0]).not.toHaveProperty('memoryReady');
    await sandbox.stop();
    expect([...fake.held]).toEqual([]);
  });

  it('start: a clone whose RAM can not be copied releases everything', async () => {
    const fake = fakeParts();
    const template = {
      snapshot: { statePath: '/t/state', stateSha256: 'x', machine: 'm' },
      copyMemory: () => Promise.reject(new Error('no space')),
      copyDisk: () => Promise.resolve(),
    };
    const sandbox = new Supervisor(makeSpec({}, 2), { ...fake.parts, template });
    await expect(sandbox.start()).rejects.toMatchObject({ code: 'start_failed' });
    expect([...fake.held]).toEqual([]);
  });

  it('start: the error has the last lines of the console', async () => {
    const { sandbox } = supervise(fakeParts({ fail: 'hello' }));
    await expect(sandbox.start()).rejects.toMatchObject({
      cause: { message: expect.stringContaining('Kernel panic') },
    });
  });

  it('start: a VM that ends before the hello fails at once', async () => {
    const fake = fakeParts({ hang: 'hello' });
    const { sandbox } = supervise(fake);
    const starting = sandbox.start();
    fake.exited.resolve({ cause: 'vmm-crashed', exitCode: 1, signal: null, detail: 'boom' });
    await expect(starting).rejects.toMatchObject({ code: 'start_failed' });
    expect([...fake.held]).toEqual([]);
  });

  it.each(['vm', 'hello'] as const)('start: cancelled while waiting for %s', async (hang) => {
    const fake = fakeParts({ hang });
    const { sandbox } = supervise(fake);
    const aborter = new AbortController();
    const starting = sandbox.start(aborter.signal);
    setImmediate(() => aborter.abort());
    await expect(starting).rejects.toMatchObject({ code: 'cancelled' });
    expect([...fake.held]).toEqual([]);
  });

  it('stop: during the start cancels it', async () => {
    const fake = fakeParts({ hang: 'hello' });
    const { sandbox } = supervise(fake);
    const starting = sandbox.start();
    const refused = expect(starting).rejects.toMatchObject({ code: 'cancelled' });
    await sandbox.stop();
    await refused;
    expect([...fake.held]).toEqual([]);
  });

  it('timeout: ends the sandbox with cause `timeout`', async () => {
    const fake = fakeParts();
    const { sandbox } = supervise(fake, { timeoutMs: 60_000 });
    await sandbox.start();
    fake.clock.advance(59_000);
    expect(sandbox.state).toBe('ready');
    fake.clock.advance(1_000);
    expect((await sandbox.ended).cause).toBe('timeout');
    expect([...fake.held]).toEqual([]);
  });

  it.each([
    ['guest-shutdown', 'guest-shutdown'],
    ['vmm-crashed', 'vmm-crashed'],
  ] as const)('a VM that ends by %s ends the sandbox with cause %s', async (cause, expected) => {
    const fake = fakeParts();
    const { sandbox } = supervise(fake);
    await sandbox.start();
    fake.exited.resolve({ cause, exitCode: 0, signal: null, detail: '' });
    expect((await sandbox.ended).cause).toBe(expected);
    expect([...fake.held]).toEqual([]);
  });

  it('a broken connection alone ends the sandbox as agent-lost', async () => {
    const fake = fakeParts();
    const { sandbox } = supervise(fake);
    await sandbox.start();
    fake.closed.resolve({ reason: 'lost', detail: '' });
    await Promise.resolve();
    await Promise.resolve();
    fake.clock.advance(500);
    expect((await sandbox.ended).cause).toBe('agent-lost');
    expect(sandbox.state).toBe('failed');
  });

  it('a broken connection that the VM’s exit explains is reported as that exit', async () => {
    const fake = fakeParts();
    const { sandbox } = supervise(fake);
    await sandbox.start();
    fake.closed.resolve({ reason: 'lost', detail: '' });
    fake.exited.resolve({ cause: 'vmm-crashed', exitCode: null, signal: 'SIGKILL', detail: '' });
    expect((await sandbox.ended).cause).toBe('vmm-killed');
  });

  it('a late notice of the VM’s exit explains the broken connection, too', async () => {
    const { fake, sandbox } = await lostWithItsVmm();
    fake.clock.advance(20_000);
    await settle();
    fake.exited.resolve({ cause: 'vmm-crashed', exitCode: null, signal: 'SIGKILL', detail: '' });
    expect((await sandbox.ended).cause).toBe('vmm-killed');
  });

  it('an exit of the VM that is never noticed does not block the end', async () => {
    const { fake, sandbox } = await lostWithItsVmm();
    fake.clock.advance(30_000);
    expect((await sandbox.ended).cause).toBe('agent-lost');
  });

  it('illegal requests are refused and change nothing', async () => {
    const fake = fakeParts();
    const { sandbox } = supervise(fake);
    expect(() => sandbox.guest()).toThrow(expect.objectContaining({ code: 'not_ready' }));
    await expect(sandbox.pause()).rejects.toMatchObject({ code: 'not_ready' });
    await sandbox.start();
    await expect(sandbox.resume()).rejects.toMatchObject({ code: 'not_ready' });
    await sandbox.pause();
    expect(() => sandbox.guest()).toThrow(expect.objectContaining({ code: 'not_ready' }));
    await sandbox.resume();
    await sandbox.stop();
    expect(() => sandbox.guest()).toThrow(expect.objectContaining({ code: 'gone' }));
    await expect(sandbox.pause()).rejects.toMatchObject({ code: 'gone' });
  });
});
