/** The jail with the real bubblewrap, kernel and control groups; its VMM is QEMU without a machine. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Injector } from '../../prove/jail/inject.ts';
import { sleep } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { MIB } from '../../src/base/units.ts';
import { confine, type QemuConfinement } from '../../src/host/runtime/jail.ts';
import { Cgroups } from '../../src/machine/jail/cgroup.ts';
import { findCgroups } from '../../src/machine/jail/cgroup-paths.ts';
import { Identities } from '../../src/machine/jail/identity.ts';
import { memoryLimitMib, TASKS_MAX } from '../../src/machine/jail/jail.ts';
import { FILES_MAX } from '../../src/machine/jail/plan.ts';
import { ProgramTrees } from '../../src/machine/jail/program-tree.ts';
import { DEFAULT_UIDS } from '../../src/machine/jail/user-ids.ts';
import type { Launched, LaunchPlan } from '../../src/machine/vmm/launch.ts';
import { startTicksOf } from '../../src/sys/process-start.ts';
import { cli, ROOT } from '../support/cli.ts';
import { need, requires, requiresRoot } from '../support/requires.ts';

const isRoot = process.geteuid?.() === 0;
const QEMU = 'qemu-system-x86_64';
const MACHINE = ['-machine', 'none', '-nodefaults', '-no-user-config', '-display', 'none', '-S'];
const QMP = ['-chardev', 'socket,id=qmp,fd=3', '-mon', 'chardev=qmp,mode=control'];

let dir: string;
let home: string;
let jail: QemuConfinement;
const started = new Set<Launched>();

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'nv-jail-home-'));
  jail = await confine({
    config: { jail: 'enforce', jailUids: null },
    home: { cacheDir: home },
    log: silentLog,
    binary: QEMU,
    acceptsGaps: true,
  });
});
afterAll(async () => {
  await jail.close();
  rmSync(home, { recursive: true });
});
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-jail-'));
});
afterEach(async () => {
  for (const one of started) await end(one);
  rmSync(dir, { recursive: true });
});

function plan(more: Partial<LaunchPlan> = {}): LaunchPlan {
  return {
    id: 'jailed',
    argv: [QEMU, ...MACHINE, ...QMP],
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    dir,
    files: [],
    memoryMib: 64,
    cpus: 1,
    ...more,
  };
}

async function launch(more: Partial<LaunchPlan> = {}): Promise<{ launched: Launched; pid: number }> {
  const launched = await jail.launch(plan(more));
  started.add(launched);
  launched.child.stderr?.resume();
  await new Promise((resolve) => launched.child.stdio[3]?.once('data', resolve));
  return { launched, pid: await launched.pid };
}

async function end(launched: Launched): Promise<void> {
  started.delete(launched);
  const { child } = launched;
  if (child.exitCode === null && child.signalCode === null) {
    const over = new Promise((resolve) => child.once('exit', resolve));
    launched.kill();
    await over;
  }
  await launched.release();
}

/** `THP_enabled` without any setting: 0 in a kernel without huge pages. */
const USUAL_THP = /^THP_enabled:\s+(\d)$/m.exec(readFileSync('/proc/1/status', 'latin1'))?.[1];

const groups = (): string[] =>
  execFileSync('find', ['/sys/fs/cgroup', '-type', 'd', '-path', '*/neurovisor/jailed.*'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.endsWith(`.${process.pid}.`) || line.includes(`.${process.pid}.`));

/** True if every limit has a control group, else the gaps. */
const wholeGroups = (): true | string => jail.gaps.length === 0 || jail.gaps.map(({ text }) => text).join('; ');

function isSleep(pid: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'latin1') === 'sleep\n';
  } catch {
    // The process has ended meanwhile.
    return false;
  }
}

const isThere = (pid: number): boolean =>
  existsSync(`/proc/${pid}`) && !/^State:\s*[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));

describe('launch', () => {
  it('launch: a VMM without huge pages has none, even if it requests them', async () => {
    const { pid } = await launch({ hugePages: false });
    const statuses = [pid, process.pid].map((of) => readFileSync(`/proc/${of}/status`, 'latin1'));
    const enabled = statuses.map((status) => /^THP_enabled:\s+(\d)$/m.exec(status)?.[1]);
    expect(enabled).toEqual(['0', USUAL_THP]);
  });

  it('launch: the VMM has its own user and processes, and a root with only its program and files', async (context) => {
    const image = join(dir, 'image');
    const disk = join(dir, 'disk');
    writeFileSync(image, 'golden');
    writeFileSync(disk, 'own');
    chmodSync(disk, 0o600);
    const { pid } = await launch({
      files: [
        { path: image, access: 'read' },
        { path: disk, access: 'write' },
      ],
    });
    const status = readFileSync(`/proc/${pid}/status`, 'latin1');
    const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]);
    expect(status).toMatch(/^NoNewPrivs:\s1$/m);
    expect(status).toMatch(/^CapBnd:\s0+$/m);
    expect(status).toMatch(/^Seccomp:\s2$/m);
    expect(readdirSync(`/proc/${pid}/root`).sort()).toEqual(['lib', 'lib64', 'proc', 'tmp', 'usr']);
    expect(readdirSync(join(`/proc/${pid}/root`, dir)).sort()).toEqual(['disk', 'image']);
    const mounts = readFileSync(`/proc/${pid}/mounts`, 'utf8').trim().split('\n');
    const writable = mounts.filter((line) => line.split(' ')[3]?.split(',').includes('rw'));
    expect(writable.map((line) => line.split(' ')[1])).toEqual([disk]);
    need(context, 'root', isRoot || 'it is not root');
    expect(uid).toBeGreaterThanOrEqual(DEFAULT_UIDS.first);
    expect(statSync(disk).uid).toBe(uid);
    expect(statSync(image).uid).toBe(0);
  });

  requiresRoot().it('launch: with all capabilities in its user namespace, no process in it becomes root', async () => {
    const { pid } = await launch();
    const { uid, gid } = statSync(`/proc/${pid}`);
    const read = (name: string): string => readFileSync(`/proc/${pid}/${name}`, 'latin1').trim().replaceAll(/ +/g, ' ');
    expect([read('uid_map'), read('gid_map')]).toEqual([`0 ${uid} 1`, `0 ${gid} 1`]);
    // Entering from outside gives all capabilities that a bug inside could give.
    const enter = [`--user=/proc/${pid}/ns/user`, '--setuid', '0', '--setgid', '0', '--'];
    for (const other of ['1', '2', '65534']) {
      const become = ['setpriv', '--reuid', other, 'cat', '/proc/self/status'];
      const { status, stderr } = spawnSync('nsenter', [...enter, ...become], { encoding: 'utf8' });
      expect(stderr).toContain('Invalid argument');
      expect(status).not.toBe(0);
    }
    const control = ['setpriv', '--reuid', '0', 'cat', '/proc/self/status'];
    const { stdout } = spawnSync('nsenter', [...enter, ...control], { encoding: 'utf8' });
    expect(stdout).toMatch(/^Uid:\s0\s/m);
    expect(stdout).toMatch(/^CapEff:\s0*1ff/m);
  });

  it('launch: limits are set before the VMM runs, and its control group is removed after it', async (context) => {
    const { launched, pid } = await launch({ memoryMib: 100, cpus: 2 });
    const limits = readFileSync(`/proc/${pid}/limits`, 'latin1');
    expect(limits).toMatch(/^Max core file size\s+0\s+0 /m);
    expect(limits).toMatch(/^Max open files\s+256\s+256 /m);
    need(context, 'cgroup', wholeGroups());
    const memory = groups().find((path) => existsSync(join(path, 'memory.limit_in_bytes')));
    const max = memory === undefined ? 'memory.max' : 'memory.limit_in_bytes';
    const [first = ''] = memory === undefined ? groups() : [memory];
    expect(readFileSync(join(first, max), 'latin1').trim()).toBe(String(memoryLimitMib(100) * 1024 * 1024));
    const pids = groups().find((path) => existsSync(join(path, 'pids.max'))) ?? '';
    expect(readFileSync(join(pids, 'pids.max'), 'latin1').trim()).toBe(String(TASKS_MAX + 2));
    expect(readFileSync(join(pids, 'cgroup.procs'), 'latin1').trim()).toBe(String(pid));
    await end(launched);
    expect(groups()).toEqual([]);
    expect(isThere(pid)).toBe(false);
  });

  requiresRoot().it('launch: without root, only the user per VM is missing, and the gap is reported', async () => {
    const uid = 1500;
    chmodSync(dir, 0o755);
    const cacheDir = join(dir, 'cache');
    mkdirSync(cacheDir);
    chownSync(cacheDir, uid, uid);
    const fixture = join(import.meta.dirname, '../fixtures/jail-ordinary.ts');
    const told = execFileSync(process.execPath, [fixture, cacheDir, `${uid}`], { encoding: 'utf8' });
    const { gaps, status } = JSON.parse(told) as { gaps: string[]; status: string };
    expect(gaps[0]).toMatch(/run as this user/);
    expect(status).toMatch(/^Uid:\s1500\s1500\s1500\s1500$/m);
    for (const set of ['CapPrm', 'CapEff', 'CapBnd', 'CapInh', 'CapAmb']) {
      expect(status).toMatch(new RegExp(`^${set}:\\s0+$`, 'm'));
    }
    expect(status).toMatch(/^NoNewPrivs:\s1$/m);
    expect(status).toMatch(/^Seccomp:\s2$/m);
  });

  requiresRoot().it('launch: log allows and logs calls that enforce kills', async () => {
    const logging = await confine({
      config: { jail: 'log', jailUids: null },
      home: { cacheDir: home },
      log: silentLog,
      binary: QEMU,
    });
    await using injector = await Injector.make();
    const keyctl = { name: 'keyctl', number: 250, args: [0, 0, 0] };
    const launched = await logging.launch(plan());
    started.add(launched);
    await new Promise((resolve) => launched.child.stdio[3]?.once('data', resolve));
    expect(await injector.call(await launched.pid, keyctl)).toMatch(/^returned -/);
    const enforced = await launch({ id: 'jailedtoo' });
    expect(await injector.call(enforced.pid, keyctl)).toBe('killed by 31');
    await end(launched);
    await logging.close();
  });

  it('launch: three concurrent VMMs have three users', async () => {
    const three = await Promise.all(['a', 'b', 'c'].map((id) => launch({ id: `jailed${id}` })));
    const uids = three.map(({ pid }) => statSync(`/proc/${pid}`).uid);
    expect(new Set(uids).size).toBe(isRoot ? 3 : 1);
  });

  it('kill: does not throw while the VMM ends by itself', async () => {
    for (let round = 0; round < 20; round += 1) {
      const { launched, pid } = await launch();
      const { child } = launched;
      process.kill(pid, 'SIGKILL');
      while (child.exitCode === null && child.signalCode === null) {
        for (let times = 0; times < 50; times += 1) launched.kill();
        await new Promise((resolve) => setImmediate(resolve));
      }
      await end(launched);
    }
  });

  it('kill: at any moment of a start, no process is left', async () => {
    // A process orphaned during the start keeps the other end of our pipe open.
    for (let round = 0; round < 60; round += 1) {
      const launched = await jail.launch(plan());
      started.add(launched);
      const outputs = launched.child.stdio.filter((stream) => stream !== null);
      await sleep((round % 20) * 2);
      await end(launched);
      await expect.poll(() => outputs.every((stream) => stream?.destroyed)).toBe(true);
    }
  });

  it('launch: reports the signal that ended the VMM; the death of its parent kills it', async () => {
    const one = await launch();
    const status = new Promise((resolve) => one.launched.child.once('exit', resolve));
    process.kill(one.pid, 'SIGKILL');
    expect(await status).toBe(128 + 9);
    await one.launched.release();
    const other = await launch();
    other.launched.child.kill('SIGKILL');
    await expect.poll(() => isThere(other.pid)).toBe(false);
  });

  it('launch: a VMM that fails at start keeps its error output, and nothing is left behind', async () => {
    const launched = await jail.launch(plan({ argv: [QEMU, '-nonsense'] }));
    let words = '';
    launched.child.stderr?.on('data', (bytes: Buffer) => {
      words += bytes.toString();
    });
    const status = await new Promise((resolve) => launched.child.once('close', resolve));
    await launched.release();
    expect(status).toBe(1);
    expect(words).toContain('-nonsense: invalid option');
    expect(groups()).toEqual([]);
  });
});

describe('descriptors', () => {
  /** Open descriptors of a process, without the eventfds and epoll sets that QEMU creates. */
  const open = (pid: number): string[][] =>
    readdirSync(`/proc/${pid}/fd`)
      .map((fd) => [fd, readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/:.*/, '')])
      .filter(([, to = '']) => to !== 'anon_inode');
  const GIVEN = [
    ['0', '/dev/null'],
    ['1', '/dev/null'],
    ['2', '/dev/null'],
    ['3', 'socket'],
  ];

  it.each(['jailed', 'free'])('launch: a VMM that is %s has only the descriptors passed to it', async (how) => {
    const secret = join(dir, 'secret');
    writeFileSync(secret, 'of the host');
    const fd = openSync(secret, 'r+');
    // Above the first gap: Node leaves such an inherited descriptor as it is.
    const stdio = Array.from({ length: 41 }, (): 'ignore' | number => 'ignore').with(40, fd);
    const args = [join(import.meta.dirname, '../fixtures/hold-jailed.ts'), home, dir, how];
    const owner = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit', ...stdio.slice(3)] });
    closeSync(fd);
    const pid = Number(await new Promise((resolve) => owner.stdout?.once('data', resolve)));
    expect(open(owner.pid ?? 0)).toContainEqual(['40', secret]);
    try {
      // While it starts it also has its own files open, such as libraries.
      await expect.poll(() => open(pid)).toEqual(GIVEN);
    } finally {
      owner.kill('SIGKILL');
    }
    await expect.poll(() => isThere(pid)).toBe(false);
  });
});

describe('the owner is killed', () => {
  it('reclaim: a VMM dies with its owner; the next owner removes its control group', async (context) => {
    const args = [join(import.meta.dirname, '../fixtures/hold-jailed.ts'), home, dir];
    const owner: ChildProcess = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    const pid = Number(await new Promise((resolve) => owner.stdout?.once('data', resolve)));
    expect(isThere(pid)).toBe(true);
    owner.kill('SIGKILL');
    await expect.poll(() => isThere(pid)).toBe(false);
    const left = (): string =>
      execFileSync('find', ['/sys/fs/cgroup', '-type', 'd', '-name', `held.${owner.pid}.*`], { encoding: 'utf8' });
    need(context, 'cgroup', wholeGroups());
    expect(left()).not.toBe('');
    const next = await confine({
      config: { jail: 'enforce', jailUids: null },
      home: { cacheDir: home },
      log: silentLog,
      binary: QEMU,
      acceptsGaps: true,
    });
    await next.close();
    expect(left()).toBe('');
  });

  it('reclaim: a control group of a dead keeper stays as long as a process holds it', async (context) => {
    need(context, 'cgroup', wholeGroups());
    const keeper = spawn('sleep', ['60'], { stdio: 'ignore' });
    const { pid = 0 } = keeper;
    const paths = findCgroups(readFileSync('/proc/self/mountinfo', 'utf8'), readFileSync('/proc/self/cgroup', 'utf8'));
    const owner = { pid, startTicks: startTicksOf(pid) ?? '' };
    const cgroups = new Cgroups(paths, undefined, undefined, silentLog, owner);
    const group = cgroups.create(newSandboxId(), { memoryBytes: 64 * MIB, tasks: 10, cpus: null });
    const ended = once(keeper, 'exit');
    keeper.kill('SIGKILL');
    await ended;
    const open = JSON.stringify(join(import.meta.dirname, '../../src/machine/jail/open.ts'));
    const log = JSON.stringify(join(import.meta.dirname, '../../src/base/log.ts'));
    const code = `await (await import(${open})).openCgroups((await import(${log})).silentLog)`;
    const reclaim = (): Buffer => execFileSync(process.execPath, ['--input-type=module', '-e', code]);
    const left = (): readonly string[] => group.dirs.filter((one) => existsSync(one));
    reclaim();
    expect(left()).toEqual(group.dirs);
    await group.remove();
    expect(left()).toEqual([]);
  });

  requiresRoot().it('endOrphans: kills only VMMs without a parent whose user is unclaimed', async () => {
    const range = { first: 1_950_000_000, count: 8 };
    const state = join(dir, 'state');
    const as = (uid: number): string[] => ['setpriv', '--reuid', `${uid}`, '--clear-groups', '--'];
    const alone = ['unshare', '--pid', '--fork', '--kill-child', '--'];
    const run = (...[command = '', ...args]: string[]): ChildProcess => spawn(command, args, { stdio: 'ignore' });
    const identities = new Identities(state, range, null);
    const held = await identities.acquire();
    const [orphanUid, containerUid] = [range.first + 5, range.first + 6];
    const mine = run(...alone, ...as(held.uid), 'sleep', '60');
    const orphan = run(...alone, ...as(orphanUid), 'sleep', '60');
    // A process in a container of this host, whose locks are elsewhere.
    const inContainer = ['unshare', '--user', ...alone.slice(1)];
    const theirs = run(...as(containerUid), ...inContainer, 'sleep', '60');
    const sleepers = (uid: number): number[] =>
      readdirSync('/proc')
        .filter((pid) => /^\d+$/.test(pid) && isSleep(pid) && uidOf(pid) === uid)
        .map(Number);
    // Undefined if the process has ended.
    const uidOf = (pid: string) => statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid;
    const sleeping = (uid: number): boolean => sleepers(uid).length > 0;
    await expect.poll(() => [held.uid, orphanUid, containerUid].every(sleeping)).toBe(true);
    const over = new Promise((resolve) => orphan.once('exit', resolve));
    const other = new Identities(state, range, null);
    expect(other.endOrphans()).toBe(1);
    await over;
    expect([held.uid, orphanUid, containerUid].map(sleeping)).toEqual([true, false, true]);
    // A user with running processes is not acquired.
    const taken = await Promise.all([other.acquire(), other.acquire(), other.acquire()]);
    expect(taken.map(({ uid }) => uid)).not.toContain(containerUid);
    const ended = [mine, theirs].map((one) => new Promise((resolve) => one.once('exit', resolve)));
    for (const uid of [held.uid, containerUid]) {
      for (const pid of sleepers(uid)) process.kill(pid, 'SIGKILL');
    }
    await Promise.all(ended);
    identities.release(held);
    for (const one of taken) other.release(one);
    await Promise.all([identities.close(), other.close()]);
  });

  requiresRoot().it('acquire: two processes of a host never share a user; reports when all are in use', async () => {
    const range = { first: 1_950_000_100, count: 2 };
    const state = join(dir, 'state');
    const [one, other] = [new Identities(state, range, null), new Identities(state, range, null)];
    const first = await one.acquire();
    const second = await other.acquire().catch((error: unknown) => error);
    // The first keeps one user ready; with two in all, the second may find none.
    if (!(second instanceof Error)) expect((second as typeof first).uid).not.toBe(first.uid);
    else expect(second).toMatchObject({ code: 'jail_unavailable', cause: 'all are in use' });
    await one.close();
    await other.close();
  });
});

describe('bad input', () => {
  const refused = { code: 'jail_plan_invalid' };
  it.each(['../up', 'a/b', 'A', '', 'x'.repeat(65), 'a\0', 'a%2e', 'ä'])('launch: rejects the ID %j', async (id) => {
    await expect(jail.launch(plan({ id }))).rejects.toMatchObject(refused);
  });

  it('launch: rejects a writable file outside the directory of the VM, also the golden image', async () => {
    const golden = join(home, 'golden');
    writeFileSync(golden, 'golden');
    for (const path of [golden, `${dir}/../${golden}`, '/etc/shadow', 'disk', `${dir}/a\nb`, `${dir}/.`]) {
      const files = [{ path, access: 'write' as const }];
      await expect(jail.launch(plan({ files }))).rejects.toMatchObject(refused);
    }
    expect(statSync(golden).uid).toBe(process.geteuid?.());
  });

  it('launch: does not follow a link in place of the disk', async () => {
    const golden = join(home, 'other-golden');
    writeFileSync(golden, 'golden');
    const path = join(dir, 'disk');
    symlinkSync(golden, path);
    const files = [{ path, access: 'write' as const }];
    await expect(jail.launch(plan({ files }))).rejects.toMatchObject(refused);
    rmSync(path);
    linkSync(golden, path);
    await expect(jail.launch(plan({ files }))).rejects.toMatchObject(refused);
    rmSync(path);
    mkdirSync(path);
    await expect(jail.launch(plan({ files }))).rejects.toMatchObject(refused);
    expect(statSync(golden).uid).toBe(process.geteuid?.());
  });

  it('launch: rejects a device outside /dev, too many files and a missing size', async () => {
    const device = [{ path: '/etc/passwd', access: 'device' as const }];
    await expect(jail.launch(plan({ files: device }))).rejects.toMatchObject(refused);
    const many = Array.from({ length: FILES_MAX + 1 }, () => ({ path: '/etc/passwd', access: 'read' as const }));
    await expect(jail.launch(plan({ files: many }))).rejects.toMatchObject(refused);
    await expect(jail.launch(plan({ memoryMib: Number.NaN }))).rejects.toThrow('memoryMib is NaN');
    expect(groups()).toEqual([]);
  });

  it('ProgramTrees, Identities: reject a link, or a directory of another user, in place of their own', async () => {
    const treeOf = (base: string) => new ProgramTrees(base, ['/bin/true']).current();
    const unsafe = { code: 'jail_dir_unsafe' };
    const link = join(dir, 'link');
    symlinkSync(home, link);
    await expect(treeOf(link)).rejects.toMatchObject({ ...unsafe, cause: 'it is a symbolic link' });
    expect(() => new Identities(link, DEFAULT_UIDS, null)).toThrow(expect.objectContaining(unsafe));
    const open = join(dir, 'open');
    mkdirSync(open);
    chmodSync(open, 0o777);
    await expect(treeOf(open)).rejects.toMatchObject(unsafe);
    const base = join(dir, 'base');
    const tree = await treeOf(base);
    const place = join(tree.dir, '..');
    const away = join(dir, 'away');
    execFileSync('mv', [place, away]);
    symlinkSync(away, place);
    await expect(treeOf(base)).rejects.toMatchObject(unsafe);
  });
});

interface Proved {
  readonly name: string;
  readonly holds: boolean;
  readonly tried: readonly { readonly what: string; readonly seen: string; readonly ok: boolean }[];
}

requiresRoot().describe('prove', () => {
  const NAMES = ['seccomp', 'caps', 'cgroup'];

  function expectAllHold(text: string): Proved[] {
    const proofs = JSON.parse(text) as Proved[];
    expect(proofs, text).toBeInstanceOf(Array);
    expect(proofs.flatMap(({ tried }) => tried.filter(({ ok }) => !ok))).toEqual([]);
    expect(proofs.map(({ name, holds }) => [name, holds])).toEqual(NAMES.map((name) => [name, true]));
    return proofs;
  }

  it('seccomp, caps and cgroup hold, each beside its controls', async () => {
    const { status, stdout, stderr } = await cli(['prove', ...NAMES, '-o', 'json']).result;
    expect({ status, stderr }).toMatchObject({ status: 0 });
    expectAllHold(stdout);
  });

  requires('kvm', existsSync('/dev/kvm') || 'no /dev/kvm').it(
    'also for VMMs with KVM, whose jail has its device (no guest runs)',
    async () => {
      // /dev/kvm owned by a group, as on real hosts, in a mount namespace of the test.
      const script = `mount -t tmpfs tmpfs "$1" && mknod "$1/kvm" c 10 232 && chgrp 61239 "$1/kvm" && chmod 660 "$1/kvm" &&
        mount --bind "$1/kvm" /dev/kvm && shift && exec "$@"`;
      const words = [join(ROOT, 'neurovisor'), 'prove', ...NAMES, '-o', 'json'];
      const run = spawn('unshare', ['--mount', 'sh', '-c', script, 'sh', dir, ...words], {
        env: { ...process.env, NEUROVISOR_ACCELERATOR: 'kvm', NO_COLOR: '1' },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const [out, [status]] = await Promise.all([text(run.stdout), once(run, 'close')]);
      const tried = expectAllHold(out).flatMap((proof) => proof.tried);
      expect(tried.find(({ what }) => what === 'its root')?.seen).toContain('dev');
      expect(status).toBe(0);
    },
  );
});
