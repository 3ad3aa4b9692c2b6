import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { silentLog } from '../../base/log.ts';
import { startTicksOf } from '../../sys/process-start.ts';
import { Cgroups } from './cgroup.ts';
import type { CgroupFiles } from './cgroup-files.ts';
import { kernelProcesses, type ProcessTable } from './cgroup-leaf.ts';
import { findCgroups } from './cgroup-paths.ts';
import { type CgroupLimits, ioFiles } from './cgroup-settings.ts';

const LIMITS: CgroupLimits = { memoryBytes: 1_000, tasks: 10, cpus: 2 };

/** Models cgroup2 as in cgroups(7): controllers come from above, and not to the children of a group with processes. */
class Unified implements CgroupFiles {
  readonly files = new Map<string, string>();
  readonly #root: string;
  readonly #locked: (dir: string) => boolean;

  constructor(root: string, controllers: string, locked: (dir: string) => boolean = () => false) {
    this.#root = root;
    this.#locked = locked;
    this.#fill(root, controllers);
  }

  #fill(dir: string, controllers: string): void {
    this.files.set(join(dir, 'cgroup.controllers'), controllers);
    this.files.set(join(dir, 'cgroup.subtree_control'), '');
    this.files.set(join(dir, 'cgroup.procs'), '');
    const files: Record<string, string[]> = {
      memory: ['memory.max', 'memory.swap.max', 'memory.oom.group'],
      pids: ['pids.max'],
      cpu: ['cpu.max'],
      io: ['io.max'],
    };
    for (const name of controllers.split(' ')) {
      for (const file of files[name] ?? []) this.files.set(join(dir, file), 'max');
    }
  }

  make(dir: string): void {
    if (this.#locked(dirname(dir))) throw failure('EACCES');
    if (this.exists(dir)) throw failure('EEXIST');
    this.#fill(dir, this.read(join(dirname(dir), 'cgroup.subtree_control')).trim());
  }

  readonly held = new Set<string>();

  hold(dir: string): void {
    this.held.add(dir);
  }

  isHeld(dir: string): boolean {
    return this.held.has(dir);
  }

  remove(dir: string): void {
    if (this.read(join(dir, 'cgroup.procs')) !== '') throw failure('EBUSY');
    for (const path of this.files.keys()) if (dirname(path) === dir) this.files.delete(path);
  }

  list(dir: string): string[] {
    const all = [...this.files.keys()].filter((path) => path.startsWith(`${dir}/`));
    return [...new Set(all.map((path) => path.slice(dir.length + 1).split('/')[0] ?? ''))];
  }

  exists(path: string): boolean {
    return [...this.files.keys()].some((each) => each === path || each.startsWith(`${path}/`));
  }

  read(path: string): string {
    const text = this.files.get(path);
    if (text === undefined) throw failure('ENOENT');
    return text;
  }

  write(path: string, value: string): void {
    const dir = dirname(path);
    if (this.#locked(dir)) throw failure('EACCES');
    const before = this.read(path);
    if (path.endsWith('/cgroup.procs')) {
      this.#move(value, dir);
      return;
    }
    if (!path.endsWith('/cgroup.subtree_control')) {
      this.files.set(path, value);
      return;
    }
    if (dir !== this.#root && this.read(join(dir, 'cgroup.procs')) !== '') throw failure('EBUSY');
    const wanted = value.split(' ').map((word) => word.slice(1));
    const there = this.read(join(dir, 'cgroup.controllers')).split(' ');
    if (!wanted.every((name) => there.includes(name))) throw failure('ENOENT');
    this.files.set(path, [...before.split(' '), ...wanted].join(' ').trim());
  }

  owner(dir: string): number {
    return this.#locked(dir) ? 0 : USER;
  }

  /** Groups marked by systemd. */
  readonly delegated = new Set<string>();

  isDelegated(dir: string): boolean {
    return this.delegated.has(dir);
  }

  processes(dir: string): number[] {
    return this.read(join(dir, 'cgroup.procs')).split('\n').filter(Boolean).map(Number);
  }

  #move(pid: string, to: string): void {
    const isInner = this.read(join(to, 'cgroup.subtree_control')) !== '';
    if (isInner && to !== this.#root) throw failure('EBUSY');
    for (const [path, text] of this.files) {
      if (!path.endsWith('/cgroup.procs')) continue;
      const others = text.split('\n').filter((each) => each !== pid && each !== '');
      const now = dirname(path) === to ? [...others, pid] : others;
      this.files.set(path, now.map((each) => `${each}\n`).join(''));
    }
  }
}

const USER = 1500;

function failure(code: string): Error {
  return Object.assign(new Error(code), { code });
}

const MOUNT = '/cg';
const of = (dir: string) => ({ v1: new Map(), v2: { dir, mount: MOUNT } });

describe('Cgroups: v2', () => {
  it('create: sets every limit; remove: leaves no group', async () => {
    const kernel = new Unified(MOUNT, 'cpu io memory pids');
    const cgroups = new Cgroups(of(MOUNT), kernel);
    expect(cgroups.missing).toBeNull();
    const group = cgroups.create('vm', LIMITS);
    const [dir = ''] = group.dirs;
    expect(dir).toMatch(new RegExp(`^/cg/neurovisor/vm\\.${process.pid}\\.\\d+$`));
    const setting = (name: string): string => kernel.read(join(dir, name));
    expect(setting('memory.max')).toBe('1000');
    expect(setting('memory.swap.max')).toBe('0');
    expect(setting('memory.oom.group')).toBe('1');
    expect(setting('pids.max')).toBe('10');
    expect(setting('cpu.max')).toBe('200000 100000');
    await group.remove();
    expect(kernel.exists(dir)).toBe(false);
  });

  it('limitIo: limits both ways of each disk, and skips unknown and absent limits', () => {
    const kernel = new Unified(MOUNT, 'cpu io memory pids');
    const io = { disks: ['8:0'], bytesPerSecond: 5_000, opsPerSecond: null };
    const group = new Cgroups(of(MOUNT), kernel).create('vm', { ...LIMITS, io });
    const setting = (): string => kernel.read(join(group.dirs[0] ?? '', 'io.max'));
    expect(setting()).toBe('8:0 rbps=5000 wbps=5000 riops=max wiops=max');
    group.limitIo({ ...io, bytesPerSecond: null, opsPerSecond: 30 });
    expect(setting()).toBe('8:0 rbps=max wbps=max riops=30 wiops=30');
    const without = new Unified(MOUNT, 'cpu memory pids');
    const other = new Cgroups(of(MOUNT), without).create('vm', { ...LIMITS, io });
    other.limitIo(io);
    expect(without.exists(join(other.dirs[0] ?? '', 'io.max'))).toBe(false);
  });

  it('constructor: goes up past a group that has processes of its own', () => {
    const kernel = new Unified(MOUNT, 'cpu memory pids');
    kernel.write(`${MOUNT}/cgroup.subtree_control`, '+cpu +memory +pids');
    kernel.make(`${MOUNT}/service`);
    kernel.write(`${MOUNT}/service/cgroup.procs`, '7');
    const cgroups = new Cgroups(of(`${MOUNT}/service`), kernel);
    expect(cgroups.create('vm', LIMITS).dirs[0]).toMatch(/^\/cg\/neurovisor\/vm\./);
  });

  it('create: warns once about each limit that no group has, as in a login session of root', () => {
    // systemd's layout: the groups above a user's slice have all controllers, those below only two.
    const kernel = new Unified(MOUNT, 'cpu io memory pids');
    const slice = `${MOUNT}/user.slice/user-0.slice`;
    const session = `${slice}/session-1.scope`;
    const steps = [
      [dirname(slice), '+cpu +io +memory +pids'],
      [slice, '+memory +pids'],
      [session, '+memory +pids'],
    ] as const;
    for (const [dir, controllers] of steps) {
      kernel.write(join(dirname(dir), 'cgroup.subtree_control'), controllers);
      kernel.make(dir);
    }
    kernel.write(join(session, 'cgroup.procs'), '20');
    const warned: unknown[] = [];
    const log = { ...silentLog, warn: (message: string) => void warned.push(message) };
    const cgroups = new Cgroups(of(session), kernel, kernelProcesses, log);
    expect(cgroups.missing).toBeNull();
    expect(cgroups.description).toBe('limits of memory, pids (none of cpu, blkio)');
    const group = cgroups.create('one', LIMITS);
    expect(dirname(group.dirs[0] ?? '')).toBe(`${slice}/neurovisor`);
    const cpu = 'the control groups of VMMs do not limit their CPU time';
    const io = 'the control groups of VMMs do not limit their disk I/O';
    expect(warned).toEqual([cpu]);
    group.limitIo({ disks: ['8:0'], bytesPerSecond: 5_000, opsPerSecond: null });
    cgroups.create('two', { ...LIMITS, io: { disks: [], bytesPerSecond: 1, opsPerSecond: null } });
    expect(warned).toEqual([cpu, io]);
    // Lifting limits needs no controller.
    const lifted = new Cgroups(of(session), kernel, kernelProcesses, log);
    const free = lifted.create('free', { ...LIMITS, cpus: null });
    free.limitIo({ disks: ['8:0'], bytesPerSecond: null, opsPerSecond: null });
    expect(warned).toEqual([cpu, io]);
  });

  it('create: does not warn if all limits hold, or no group can be made', () => {
    const log = { ...silentLog, warn: (message: string) => expect.unreachable(message) };
    const io = { disks: ['8:0'], bytesPerSecond: 5_000, opsPerSecond: null };
    const all = new Cgroups(of(MOUNT), new Unified(MOUNT, 'cpu io memory pids'), kernelProcesses, log);
    all.create('vm', { ...LIMITS, io });
    expect(all.description).toBe('limits of memory, pids, cpu, blkio');
    const locked = new Unified(MOUNT, 'memory pids', () => true);
    new Cgroups(of(MOUNT), locked, kernelProcesses, log).create('vm', { ...LIMITS, io });
  });

  it('constructor: names the missing controllers or permission', () => {
    const locked = new Unified(MOUNT, 'memory pids', () => true);
    expect(new Cgroups(of(MOUNT), locked).missing).toMatchObject({
      names: 'memory, pids',
      cause: 'this user may not change the control group /cg',
    });
    // Created by another user.
    const theirs = new Unified(MOUNT, 'memory pids', (dir) => dir.endsWith('/neurovisor'));
    theirs.make(`${MOUNT}/neurovisor`);
    expect(new Cgroups(of(MOUNT), theirs).missing?.cause).toMatch(/change .*\/cg\/neurovisor$/);
    const bare = new Unified(MOUNT, 'hugetlb');
    expect(new Cgroups(of(MOUNT), bare).missing?.cause).toMatch(/no controller for memory, pids$/);
    expect(new Cgroups(of(MOUNT), new Unified(MOUNT, 'pids')).missing?.names).toBe('memory');
  });

  it('create: removes a group that it could not limit', () => {
    const kernel = new Unified(MOUNT, 'memory pids');
    const cgroups = new Cgroups(of(MOUNT), kernel);
    const write = kernel.write.bind(kernel);
    kernel.write = (path, value) => {
      if (path.endsWith('/pids.max')) throw failure('EINVAL');
      write(path, value);
    };
    expect(() => cgroups.create('vm', LIMITS)).toThrow(expect.objectContaining({ code: 'jail_failed' }));
    expect(kernel.list(`${MOUNT}/neurovisor`).filter((name) => name.startsWith('vm'))).toEqual([]);
  });

  it('reclaim: removes only groups of dead owners', async () => {
    const kernel = new Unified(MOUNT, 'memory pids');
    const cgroups = new Cgroups(of(MOUNT), kernel);
    cgroups.create('mine', LIMITS);
    for (const name of ['dead.999999999.1', `reused.${process.pid}.1`, 'foreign', 'a.b.c']) {
      kernel.make(`${MOUNT}/neurovisor/${name}`);
    }
    expect(await cgroups.reclaim()).toBe(2);
    const left = kernel.list(`${MOUNT}/neurovisor`).filter((name) => !name.startsWith('cgroup.'));
    expect(left.filter((name) => !/^(memory|pids|cpu)\./.test(name)).sort()).toEqual([
      'a.b.c',
      'foreign',
      expect.stringMatching(/^mine\./),
    ]);
  });
});

describe('Cgroups: groups that are kept for another process', () => {
  it('reclaim: with the kept VMs of this owner, removes its others; other owners lose none', async () => {
    const kernel = new Unified(MOUNT, 'memory pids');
    const owner = { pid: process.ppid, startTicks: startTicksOf(process.ppid) ?? '' };
    const cgroups = new Cgroups(of(MOUNT), kernel, kernelProcesses, silentLog, owner);
    for (const id of ['kept', 'lost']) cgroups.create(id, LIMITS);
    const other = new Cgroups(of(MOUNT), kernel);
    other.create('other', LIMITS);
    expect(await other.reclaim()).toBe(0);
    expect(await cgroups.reclaim(new Set(['kept', 'other']))).toBe(1);
    const left = kernel.list(`${MOUNT}/neurovisor`).filter((name) => /^(kept|lost|other)\./.test(name));
    expect(left.sort()).toEqual([`kept.${owner.pid}.${owner.startTicks}`, expect.stringMatching(/^other\./)]);
  });

  it('reclaim: a group that a living process holds stays when its owner is dead', async () => {
    const kernel = new Unified(MOUNT, 'memory pids');
    const dead = { pid: 999_999_999, startTicks: '1' };
    const [dir = ''] = new Cgroups(of(MOUNT), kernel, kernelProcesses, silentLog, dead).create('vm', LIMITS).dirs;
    const other = new Cgroups(of(MOUNT), kernel);
    expect(await other.reclaim()).toBe(0);
    kernel.held.delete(dir);
    expect(await other.reclaim()).toBe(1);
  });
});

/** A unit with `User=` and `Delegate=yes`: its group is this user's, its ancestors are not. */
describe('Cgroups: a delegated group of v2 with processes', () => {
  const UNIT = `${MOUNT}/system.slice/nv.service`;
  const LEAF = `${UNIT}/neurovisor-self`;
  /** Launcher 10, this process 20, its child 30; 40 has another parent. */
  const PARENTS = new Map([
    [1, 0],
    [10, 1],
    [20, 10],
    [30, 20],
    [40, 1],
  ]);
  const table = (uid = USER): ProcessTable => ({ pid: 20, uid, parentOf: (p) => PARENTS.get(p) });

  function unit(...pids: readonly number[]): Unified {
    let isBooted = false;
    const isOurs = (dir: string): boolean => dir.startsWith(UNIT);
    const kernel = new Unified(MOUNT, 'cpu io memory pids', (dir) => isBooted && !isOurs(dir));
    for (const dir of [`${MOUNT}/system.slice`, UNIT]) {
      kernel.write(join(dirname(dir), 'cgroup.subtree_control'), '+cpu +io +memory +pids');
      kernel.make(dir);
    }
    for (const pid of pids) kernel.write(join(UNIT, 'cgroup.procs'), String(pid));
    isBooted = true;
    return kernel;
  }

  it('constructor: moves this process, its ancestors and its descendants into a leaf', () => {
    const kernel = unit(10, 20, 30);
    const cgroups = new Cgroups(of(UNIT), kernel, table());
    expect(cgroups.missing).toBeNull();
    expect(kernel.processes(UNIT)).toEqual([]);
    expect(kernel.processes(LEAF)).toEqual([10, 20, 30]);
    const [dir = ''] = cgroups.create('vm', LIMITS).dirs;
    expect(dirname(dir)).toBe(`${UNIT}/neurovisor`);
    expect(kernel.read(join(dir, 'memory.max'))).toBe('1000');
  });

  it('constructor: for root also, in a group that systemd marked, though an ancestor would do', () => {
    const kernel = new Unified(MOUNT, 'cpu io memory pids', () => false);
    for (const dir of [`${MOUNT}/system.slice`, UNIT]) {
      kernel.write(join(dirname(dir), 'cgroup.subtree_control'), '+cpu +io +memory +pids');
      kernel.make(dir);
    }
    for (const pid of [10, 20]) kernel.write(join(UNIT, 'cgroup.procs'), String(pid));
    kernel.delegated.add(UNIT);
    const cgroups = new Cgroups(of(UNIT), kernel, table(0));
    expect(cgroups.controllers).toEqual(['memory', 'pids', 'cpu', 'blkio']);
    expect(dirname(cgroups.create('vm', LIMITS).dirs[0] ?? '')).toBe(`${UNIT}/neurovisor`);
    expect(kernel.processes(LEAF)).toEqual([10, 20]);
  });

  it('constructor: uses an existing leaf, from within and from beside it', () => {
    const kernel = unit(20);
    const first = new Cgroups(of(UNIT), kernel, table());
    const second = new Cgroups(of(LEAF), kernel, table());
    expect([first.missing, second.missing]).toEqual([null, null]);
    expect(dirname(second.create('vm', LIMITS).dirs[0] ?? '')).toBe(`${UNIT}/neurovisor`);
    const left = unit(10, 20);
    left.make(LEAF);
    left.write(join(LEAF, 'cgroup.procs'), '20');
    expect(new Cgroups(of(LEAF), left, table()).missing).toBeNull();
    expect(left.processes(LEAF)).toEqual([20, 10]);
  });

  it.each([
    ['a foreign process', [20, 40], USER],
    ['a process of another pid namespace', [20, 0], USER],
    ['a process that has ended', [20, 50], USER],
    ['a group of root, which owns every group', [10, 20], 0],
    ['a group of another user', [10, 20], 1501],
  ] as const)('constructor: moves nothing in a group with %s', (_, pids, uid) => {
    const kernel = unit(...pids);
    const { missing } = new Cgroups(of(UNIT), kernel, table(uid));
    expect(missing?.cause).toMatch(/nv\.service has processes of its own/);
    expect(missing?.remedy).toMatch(/docs\/daemon\.md/);
    expect(kernel.processes(UNIT)).toEqual(pids);
    expect(kernel.exists(LEAF)).toBe(false);
  });

  it('constructor: also moves processes that were forked meanwhile', () => {
    const kernel = unit(10, 20);
    const write = kernel.write.bind(kernel);
    let forks = 0;
    kernel.write = (path, value) => {
      write(path, value);
      if (value === '20' && forks++ === 0) write(join(UNIT, 'cgroup.procs'), '30');
    };
    expect(new Cgroups(of(UNIT), kernel, table()).missing).toBeNull();
    expect(kernel.processes(LEAF)).toEqual([10, 20, 30]);
  });

  it('constructor: skips a process that ends before its move', () => {
    const kernel = unit(20, 30);
    const write = kernel.write.bind(kernel);
    kernel.write = (path, value) => {
      if (value === '30') {
        kernel.files.set(join(UNIT, 'cgroup.procs'), '');
        throw failure('ESRCH');
      }
      write(path, value);
    };
    expect(new Cgroups(of(UNIT), kernel, table()).missing).toBeNull();
  });

  it.each([
    ['a foreign process joins', '40'],
    ['forks never stop', '30'],
  ])('constructor: moves everything back if %s', (_, pid) => {
    const kernel = unit(10, 20);
    const write = kernel.write.bind(kernel);
    const procs = join(UNIT, 'cgroup.procs');
    let writes = 0;
    kernel.write = (path, value) => {
      write(path, value);
      if (path !== procs && path.endsWith('/cgroup.procs') && ++writes < 1_000) write(procs, pid);
    };
    expect(new Cgroups(of(UNIT), kernel, table()).missing?.cause).toMatch(/processes of its own/);
    expect(writes).toBeLessThan(100);
    expect(kernel.processes(UNIT).sort()).toEqual([10, 20, Number(pid)].sort());
    expect(kernel.exists(LEAF)).toBe(false);
  });

  it('constructor: moves no process if an ancestor can have the groups', () => {
    const kernel = new Unified(MOUNT, 'memory pids');
    kernel.write(`${MOUNT}/cgroup.subtree_control`, '+memory +pids');
    kernel.make(`${MOUNT}/app.scope`);
    kernel.write(`${MOUNT}/app.scope/cgroup.procs`, '20');
    expect(new Cgroups(of(`${MOUNT}/app.scope`), kernel, table()).missing).toBeNull();
    expect(kernel.processes(`${MOUNT}/app.scope`)).toEqual([20]);
  });

  it('kernelProcesses: knows only the parents of running processes', () => {
    expect(kernelProcesses.parentOf(process.pid)).toBe(process.ppid);
    expect(kernelProcesses.parentOf(999_999_999)).toBeUndefined();
  });

  it('constructor: moves nothing if the group lacks the controllers', () => {
    const kernel = unit(20);
    kernel.files.set(join(UNIT, 'cgroup.controllers'), 'cpu');
    expect(new Cgroups(of(UNIT), kernel, table()).missing?.names).toBe('memory, pids');
    expect(kernel.processes(UNIT)).toEqual([20]);
  });
});

describe('ioFiles: v1', () => {
  it('ioFiles: writes a file for each way and unit, 0 for no limit', () => {
    expect(ioFiles(1, { disks: [], bytesPerSecond: 7, opsPerSecond: null })).toEqual([
      ['blkio.throttle.read_bps_device', '7'],
      ['blkio.throttle.read_iops_device', '0'],
      ['blkio.throttle.write_bps_device', '7'],
      ['blkio.throttle.write_iops_device', '0'],
    ]);
  });
});

describe('findCgroups', () => {
  const V1 = [
    '31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755',
    '32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct',
    '35 31 0:32 /docker/7 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory',
    '40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd',
    '41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw',
  ].join('\n');

  it('findCgroups: finds v1, v2 and both, below the mounted root', () => {
    const own = '4:memory:/docker/7/sub\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/x\n';
    const found = findCgroups(V1, own);
    expect([...found.v1].sort()).toEqual([
      ['cpu', '/sys/fs/cgroup/cpu,cpuacct'],
      ['memory', '/sys/fs/cgroup/memory/sub'],
    ]);
    expect(found.v2).toEqual({ dir: '/sys/fs/cgroup/uni fied/x', mount: '/sys/fs/cgroup/uni fied' });
  });
  it('findCgroups: ignores groups of another namespace', () => {
    expect(findCgroups(V1, '4:memory:/elsewhere\n0::/../up\n')).toEqual({ v1: new Map(), v2: null });
    expect(findCgroups('', '')).toEqual({ v1: new Map(), v2: null });
    expect(findCgroups('garbage - cgroup2', '0:')).toEqual({ v1: new Map(), v2: null });
  });
});
