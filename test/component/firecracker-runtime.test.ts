/** Firecracker in its jail, as the runtime starts it. Needs root; a real guest, but no Linux. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { describeError } from '../../src/base/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import { VmmMemory } from '../../src/host/probes/vmm-memory.ts';
import { makeFirecracker } from '../../src/host/runtime/firecracker/firecracker.ts';
import type { FirecrackerConfig } from '../../src/host/runtime/firecracker/jail.ts';
import type { Confinement } from '../../src/host/runtime/jail.ts';
import { findCgroups } from '../../src/machine/jail/cgroup-paths.ts';
import { limitsOf } from '../../src/machine/jail/jail.ts';
import { DEFAULT_UIDS, UserIds } from '../../src/machine/jail/user-ids.ts';
import type { Vm } from '../../src/machine/vmm/driver.ts';
import { FILES } from '../../src/machine/vmm/firecracker/config.ts';
import { causeOfExit } from '../../src/sandbox/contract/ending.ts';
import { startTicksOf } from '../../src/sys/process-start.ts';
import { ioSettings, requiresDiskLimits } from '../support/cgroup-io.ts';
import { ask, driverParity, held, VmBench } from '../support/driver-parity.ts';
import { requiresFirecrackerAsRoot } from '../support/firecracker.ts';
import { need } from '../support/requires.ts';

const PATIENT = { timeout: 120_000 };
const HOLD = join(import.meta.dirname, '../fixtures/hold-runtime-vm.ts');
const NAMESPACES = ['pid', 'mnt', 'net', 'ipc', 'uts', 'cgroup'];

const diskLimits = await requiresDiskLimits();

requiresFirecrackerAsRoot().describe('Firecracker of the runtime', (files) => {
  const usual: FirecrackerConfig = {
    jail: 'enforce',
    jailUids: null,
    firecracker: files.firecracker,
    jailer: files.jailer,
    firecrackerFilter: 'builtin',
  };
  let dir: string;
  let confinement: Confinement | undefined;
  let bench: VmBench | undefined;
  const memory = new VmmMemory(systemClock);
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-fc-'));
  });
  afterEach(async () => {
    await end();
    rmSync(dir, { recursive: true, force: true });
  });

  async function end(): Promise<void> {
    await bench?.close();
    await confinement?.close();
  }

  const home = () => ({ cacheDir: join(dir, 'cache'), runDir: join(dir, 'run') });
  /** Files with compiled filters; a digest ends the name. */
  const filters = (name: string): string[] => {
    const base = join(dir, 'cache/jail');
    const found = readdirSync(base).filter((each) => each.startsWith(`${name}-`));
    return found.map((each) => join(base, each));
  };
  /** True if every limit has a control group, else the missing ones. */
  const wholeGroups = (): true | string => {
    if (confinement === undefined) throw new Error('no confinement is open');
    return confinement.gaps.length === 0 || confinement.gaps.map(({ text }) => text).join('; ');
  };
  const jails = (): string[] => readdirSync(join(dir, 'run/jail/firecracker'));

  async function open(more: Partial<FirecrackerConfig> = {}): Promise<VmBench> {
    await end();
    const made = await makeFirecracker({ config: { ...usual, ...more }, home: home(), log: silentLog, memory });
    confinement = made.confinement;
    bench = new VmBench(made.driver, files);
    return bench;
  }

  function status(vm: Vm, name: string, thread = vm.pid): string {
    const text = readFileSync(`/proc/${vm.pid}/task/${thread}/status`, 'latin1');
    return new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(text)?.[1]?.trim() ?? '';
  }

  function groupsOf(pid: number | null): string[] {
    if (!existsSync(`/proc/${pid}`)) return [];
    const read = (path: string): string => readFileSync(path, 'utf8');
    const { v1, v2 } = findCgroups(read('/proc/self/mountinfo'), read(`/proc/${pid}/cgroup`));
    return [...v1.values(), ...(v2 === null ? [] : [v2.dir])].filter((at) => at.includes('/neurovisor/'));
  }

  it('makeFirecracker: each VM has a user and namespaces of its own, and minimal rights', async () => {
    const { boot } = await opened();
    const [one, two] = [await boot(), await boot()];
    const [uid, other] = [one, two].map((vm) => Number(status(vm, 'Uid').split(/\s+/)[0]));
    expect(uid).toBeGreaterThanOrEqual(DEFAULT_UIDS.first);
    expect(other).toBeGreaterThanOrEqual(DEFAULT_UIDS.first);
    expect(uid).not.toBe(other);
    expect(status(one, 'Name')).toBe('firecracker');
    for (const name of ['Uid', 'Gid']) expect(status(one, name)).toMatch(/^(\d+)\s+\1\s+\1\s+\1$/);
    expect(status(one, 'Groups')).toBe('');
    for (const name of NAMESPACES) {
      const own = readlinkSync(`/proc/${one.pid}/ns/${name}`);
      expect(own, name).not.toBe(readlinkSync(`/proc/self/ns/${name}`));
      expect(own, name).not.toBe(readlinkSync(`/proc/${two.pid}/ns/${name}`));
    }
    for (const thread of readdirSync(`/proc/${one.pid}/task`).map(Number)) {
      expect(status(one, 'Seccomp', thread)).toBe('2');
      expect(status(one, 'NoNewPrivs', thread)).toBe('1');
      expect(status(one, 'CapEff', thread)).toMatch(/^0+$/);
    }
    const limits = readFileSync(`/proc/${one.pid}/limits`, 'latin1');
    expect(limits).toMatch(/^Max core file size +0 +0 /m);
    expect(limits).toMatch(/^Max locked memory +0 +0 /m);
    expect(limits).toMatch(/^Max processes +81 +81 /m);
    expect(lstatSync(join(dir, 'run/jail'))).toMatchObject({ uid: 0 });
    expect(lstatSync(join(dir, 'run/jail')).mode & 0o777).toBe(0o700);
    expect(await ask(one, 'PRINT hello')).toBe('done');
    expect(confinement?.description).toMatch(/^jailed: own user, own namespaces, own root/);
    expect(confinement?.description).toContain('seccomp filters of Firecracker');
  });

  it('makeFirecracker: a VM has a control group of its size, which is removed with it', async (context) => {
    const { boot } = await opened();
    need(context, 'cgroup', wholeGroups());
    const vm = await boot();
    const groups = groupsOf(vm.pid);
    expect(groups.length).toBeGreaterThan(0);
    const read = (name: string): string | undefined => {
      const at = groups.map((group) => join(group, name)).find(existsSync);
      return at === undefined ? undefined : readFileSync(at, 'latin1').trim();
    };
    const limits = limitsOf({ memoryMib: 128, cpus: 1 });
    expect(read('memory.max') ?? read('memory.limit_in_bytes')).toBe(`${limits.memoryBytes}`);
    expect(read('pids.max')).toBe(`${limits.tasks}`);
    // Each thread, not only the first.
    for (const group of groups) {
      const threads = readFileSync(join(group, 'cgroup.procs'), 'latin1').trim().split('\n');
      expect(threads).toContain(`${vm.pid}`);
    }
    await vm.kill();
    expect(groups.filter(existsSync)).toEqual([]);
  });

  diskLimits.it(
    'setDiskLimits: the group limits Firecracker, with headroom for the host; limits can be changed and lifted',
    async (context) => {
      const made = await open();
      need(context, 'cgroup', wholeGroups());
      const vm = await made.boot({ diskLimits: { bytesPerSecond: 1_000_000 } });
      const settings = (): string[] => ioSettings(vm.pid ?? 0);
      expect(settings()).toEqual(['2000000', '2000000']);
      await vm.setDiskLimits({ opsPerSecond: 100 });
      expect(settings()).toEqual(['800', '800']);
      await vm.setDiskLimits({});
      expect(settings()).toEqual([]);
    },
  );

  it('makeFirecracker: reports an OOM-killed VMM as one, even if its group is gone', async (context) => {
    const made = await open();
    need(context, 'cgroup', wholeGroups());
    const vm = await made.boot();
    const watch = memory.watch(vm.pid ?? 0);
    if (watch === null) throw new Error('it has no group of its own');
    const limit = groupsOf(vm.pid)
      .flatMap((group) => ['memory.max', 'memory.limit_in_bytes'].map((name) => join(group, name)))
      .find(existsSync);
    if (limit === undefined) throw new Error('its group has no limit');
    writeFileSync(limit, `${32 * 2 ** 20}`);
    await ask(vm, 'TOUCH 96').catch(String);
    const exit = await vm.exited;
    expect(groupsOf(vm.pid)).toEqual([]);
    expect(watch.oomKills()).toBeGreaterThan(0);
    expect(causeOfExit(exit, vm.consoleTail(), watch.oomKills()).cause).toBe('host-oom');
  });

  it('kill: ends the VM, removes its jail and frees its id', async () => {
    // The only id in the range; no other test uses it.
    const { boot } = await opened({ jailUids: '1950000300:1' });
    const vm = await boot();
    const uid = status(vm, 'Uid');
    expect(uid).toContain('1950000300');
    expect(describeError(await boot().catch((error) => error))).toContain('all are in use');
    await vm.kill();
    expect(await vm.exited).toMatchObject({ cause: 'killed', signal: 'SIGKILL' });
    expect(startTicksOf(vm.pid ?? 0)).toBeUndefined();
    expect(jails()).toEqual([]);
    expect(status(await boot(), 'Uid')).toBe(uid);
  });

  it('exited: reports the end of guest and process as without a jail', async () => {
    const { boot } = await opened();
    const reboots = await boot();
    await ask(reboots, 'REBOOT').catch(String);
    expect(await reboots.exited).toMatchObject({ cause: 'guest-shutdown', exitCode: 0 });
    const dies = await boot();
    process.kill(dies.pid ?? 0, 'SIGSEGV');
    expect((await dies.exited).cause).toBe('vmm-crashed');
    const stops = await boot();
    expect(stops.isAlive()).toBe(true);
    process.kill(stops.pid ?? 0, 'SIGSTOP');
    await expect.poll(() => stops.isAlive(), PATIENT).toBe(false);
  });

  it('makeFirecracker: compiles our filters, readable by their owner only', async () => {
    const { boot } = await opened({ firecrackerFilter: 'ours' });
    const vm = await boot();
    expect(confinement?.description).toContain('our seccomp filters');
    const [file = ''] = filters('firecracker-threads-enforce');
    expect(lstatSync(file)).toMatchObject({ uid: 0 });
    expect(lstatSync(file).mode & 0o777).toBe(0o600);
    const held = join(dir, 'run/jail/firecracker', vm.id, 'root/fc');
    const same = readdirSync(held).filter((name) => {
      const at = join(held, name);
      return statSync(at).isFile() && readFileSync(at).equals(readFileSync(file));
    });
    expect(same).toHaveLength(1);
    expect(await ask(vm, 'PRINT hello')).toBe('done');
    await vm.pause();
    await vm.resume();
    expect(await ask(vm, 'PRINT again')).toBe('done');
  });

  it('makeFirecracker: --jail log uses our filters in log mode', async () => {
    const { boot } = await opened({ jail: 'log' });
    const vm = await boot();
    expect(status(vm, 'Seccomp')).toBe('2');
    expect(confinement?.description).toContain('our seccomp filters, but refused system calls');
    expect(filters('firecracker-threads-log')).toHaveLength(1);
    expect(filters('firecracker-launch-log')).toHaveLength(1);
  });

  it.each(['builtin', 'ours'] as const)(
    'makeFirecracker: each thread has its filters even without a jail (%s)',
    async (firecrackerFilter) => {
      const { boot } = await opened({ jail: 'off', firecrackerFilter });
      const vm = await boot();
      expect(status(vm, 'Seccomp')).toBe('2');
      expect(confinement?.description).toMatch(/^not jailed: disabled/);
    },
  );

  it('makeFirecracker: without a usable jailer, enforce and auto fail', async () => {
    const other = join(dir, 'jailer');
    writeFileSync(other, '#!/bin/sh\necho "Jailer v1.17.0"\n');
    chmodSync(other, 0o755);
    await expect(open({ jailer: other })).rejects.toMatchObject({
      code: 'jail_unavailable',
      cause: expect.objectContaining({ cause: expect.stringContaining('1.17.0') }),
    });
    const lacks = open({ jailer: join(dir, 'none') });
    await expect(lacks).rejects.toMatchObject({ code: 'jail_unavailable' });
    const auto = open({ jail: 'auto', jailer: other });
    await expect(auto).rejects.toMatchObject({
      code: 'jail_unavailable',
      remedy: expect.stringContaining('--jail off'),
    });
  });

  it('makeFirecracker: detects a broken jailer before the first VM', async () => {
    const fails = join(dir, 'jailer');
    writeFileSync(
      fails,
      '#!/bin/sh\n[ "$1" = --version ] && echo "Jailer v1.16.1" && exit 0\necho no chroot here >&2\nexit 1\n',
    );
    chmodSync(fails, 0o755);
    await expect(open({ jailer: fails })).rejects.toMatchObject({
      code: 'jail_unavailable',
      cause: expect.objectContaining({ cause: 'no chroot here' }),
    });
    expect(jails()).toEqual([]);
  });

  it('makeFirecracker: finds the jailer beside Firecracker', async () => {
    mkdirSync(join(dir, 'bin'));
    for (const name of ['firecracker', 'jailer'] as const) {
      copyFileSync(files[name], join(dir, 'bin', name));
      chmodSync(join(dir, 'bin', name), 0o755);
    }
    await open({ firecracker: join(dir, 'bin/firecracker'), jailer: null });
    expect(confinement?.description).toMatch(/^jailed: /);
  });

  it('makeFirecracker: refuses a home that others may write to', async () => {
    mkdirSync(join(dir, 'run'));
    chmodSync(join(dir, 'run'), 0o777);
    await expect(open()).rejects.toMatchObject({ code: 'jail_unavailable' });
  });

  it('makeFirecracker: its VMs outlive the start of a NeuroVisor with other lock files, as in a container', async () => {
    const { boot } = await opened();
    const vm = await boot();
    const elsewhere = mkdtempSync(join(tmpdir(), 'nv-locks-'));
    onTestFinished(() => rmSync(elsewhere, { recursive: true }));
    expect(new UserIds(elsewhere, DEFAULT_UIDS).endOrphans()).toBe(0);
    await vm.pause();
    await vm.resume();
    expect(vm.isAlive()).toBe(true);
  });

  it('makeFirecracker: a VM ends with its killed owner; the next start removes the rest', async () => {
    await open();
    mkdirSync(join(dir, 'vm'), { mode: 0o700 });
    const text = JSON.stringify({ ...files, config: usual });
    const owner = spawn(process.execPath, [HOLD, join(dir, 'vm'), dir, text], { stdio: ['ignore', 'pipe', 'inherit'] });
    const started = once(owner.stdout, 'data');
    const pid = Number(await Promise.race([started, once(owner, 'exit').then(() => Number.NaN)]));
    expect(pid).toBeGreaterThan(1);
    const groups = groupsOf(pid);
    // The jail of a live VM stays.
    await open();
    expect(startTicksOf(pid)).toBeDefined();
    expect(jails()).toEqual(['held']);
    owner.kill('SIGKILL');
    await once(owner, 'exit');
    await expect.poll(() => startTicksOf(pid), PATIENT).toBeUndefined();
    expect(jails()).toEqual(['held']);
    await open();
    expect(jails()).toEqual([]);
    expect(groups.filter(existsSync)).toEqual([]);
  });

  it.each(['before', 'after'] as const)('start: cancelled %s its API answers, nothing is left behind', async (when) => {
    const made = await open();
    const before = held().children;
    const folder = join(dir, 'run/jail/firecracker');
    const cancel = new AbortController();
    const spec = made.spec();
    const never = new Promise<void>(() => undefined);
    const starting = made.driver.start({ ...spec, memoryReady: never }, cancel.signal);
    const refused = expect(starting).rejects.toMatchObject({ code: 'vm_cancelled' });
    // The jail exists some time before the API answers, its socket a moment before.
    const mark = when === 'before' ? [] : ['root', FILES.api];
    await expect.poll(() => existsSync(join(folder, spec.id, ...mark)), { ...PATIENT, interval: 1 }).toBe(true);
    cancel.abort();
    await refused;
    expect(jails()).toEqual([]);
    expect(held().children).toBe(before);
  });

  it('makeFirecracker: VMs that start at once have different users', async () => {
    const { boot } = await opened();
    const uids = (await Promise.all([boot(), boot(), boot()])).map((vm) => status(vm, 'Uid'));
    expect(new Set(uids).size).toBe(3);
  });

  describe('fulfills the contract of every driver', () => {
    let shared: string;
    const own: Confinement[] = [];
    beforeAll(() => {
      shared = mkdtempSync(join(tmpdir(), 'nv-fc-'));
    });
    afterAll(async () => {
      for (const one of own) await one.close();
      rmSync(shared, { recursive: true, force: true });
    });
    driverParity(
      async () => {
        const made = await makeFirecracker({
          config: { ...usual, firecrackerFilter: 'ours' },
          log: silentLog,
          home: { cacheDir: join(shared, 'cache'), runDir: join(shared, 'run') },
        });
        own.push(made.confinement);
        return made.driver;
      },
      async () => files,
      ['nic', 'disks', 'paused-connections'],
    );
  });

  async function opened(more: Partial<FirecrackerConfig> = {}): Promise<{ boot(): Promise<Vm> }> {
    const made = await open(more);
    return { boot: () => made.boot() };
  }
});
