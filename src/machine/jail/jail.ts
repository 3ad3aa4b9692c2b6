/**
 * The confinement of a VMM process. An attacker who takes over the VMM from inside the guest has:
 *
 *     a user id of its own      it owns nothing on the host but its disk
 *     an empty root             its program, read-only; kernel and golden image, read-only; its disk
 *     no network, no /proc      its own namespaces, with no other process
 *     no capability, ever       none in the bounding set, no_new_privs
 *     a list of system calls    seccomp: `compile.ts` makes it from `policy/`
 *     limits                    a control group (`cgroup.ts`) and rlimits
 *
 *     daemon ── mount ── nsenter ── setpriv ── bwrap ─┬─ stays, as the parent; ends when the daemon does
 *                                                     └─ mounts … waits ──► the VMM (same pid; ends when bwrap does)
 *                                       daemon: control group, rlimits ─► "continue"
 *
 * The VMM starts only once its limits are set. VMMs of an ordinary user keep that user's id; everything else applies.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  constants,
  fchownSync,
  fstatSync,
  openSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { Duplex } from 'node:stream';
import { assert } from '../../base/assert.ts';
import { describeError } from '../../base/errors.ts';
import { ignore, tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { type DiskLimits, hasDiskLimits } from '../../base/request/disk-limits.ts';
import { MIB } from '../../base/units.ts';
import { closeAllOnExec } from '../../sys/close-on-exec.ts';
import { closeFd, createMemFd } from '../../sys/fd.ts';
import { makeFifo } from '../../sys/fifo.ts';
import { withoutHugePages } from '../../sys/huge-pages.ts';
import { killIfRunning, startTicksOf } from '../../sys/process-start.ts';
import { setLimit } from '../../sys/rlimit.ts';
import type { Cgroup, Cgroups } from './cgroup.ts';
import type { CgroupLimits } from './cgroup-settings.ts';
import { ioLimits } from './disk-io.ts';
import { JailError } from './errors.ts';
import type { Identities, Identity } from './identity.ts';
import { checkPlan, invalid, type JailPlan, type JailTools, jailCommand } from './plan.ts';
import type { ProgramTree, ProgramTrees } from './program-tree.ts';
import { type Stage, stageTable } from './stage.ts';

/** A process in its jail, or on its way there. */
export interface Jailed {
  /** The parent, bubblewrap. It ends with the VMM; a status of 128 + n means that signal n ended the VMM. */
  readonly child: ChildProcess;
  /** The VMM's pid, once all its limits are set. @throws JailError `jail_failed` */
  readonly pid: Promise<number>;
  /** Kills the VMM. Idempotent; `child` emits the end. */
  kill(): void;
  limitDisks(limits: DiskLimits): void;
  /** Directories of its control group. */
  readonly groups: readonly string[];
  /** Removes the rest of the jail. Call it after the end of `child`. Idempotent. */
  release(): Promise<void>;
}

export interface JailParts {
  readonly tools: JailTools;
  /** `null` if the plan's files include the program. */
  readonly trees: ProgramTrees | null;
  /** `struct sock_filter[]`. */
  readonly filter: Uint8Array;
  /** `null`: VMMs keep the user id of this process. */
  readonly identities: Identities | null;
  /** Set if `identities` is. */
  readonly stage: Stage | null;
  /** `null` if this host allows none. */
  readonly cgroups: Cgroups | null;
  readonly log: Log;
}

/**
 * Memory of a VMM beside the guest's RAM: translated code (128 MiB at most) and its own data. QEMU with 2 GiB of RAM in
 * full use and its cache full of code had 53 MiB of its own, 34 of its programs' pages and 6 of page tables; more
 * processors have more.
 */
const OVERHEAD_MIB = 128 + 160;
/** Page tables take 8 bytes for each 4 KiB, and KVM has its own. */
const RAM_PER_TABLES = 256;

/** The largest file that a VMM may write, bytes: its disk, RAM, or saved state. */
export function fileLimitBytes(memoryMib: number, diskBytes: number): number {
  return Math.max(memoryMib * MIB, OVERHEAD_MIB * MIB, diskBytes);
}

/** The host memory that a VMM may use, including the guest's RAM. */
export function memoryLimitMib(memoryMib: number): number {
  return memoryMib + OVERHEAD_MIB + Math.ceil(memoryMib / RAM_PER_TABLES);
}
/** Threads beside the vCPUs: at most 64 for disk I/O, and a few more. */
export const TASKS_MAX = 80;
const OPEN_FILES_MAX = 256;
const INFO_BYTES_MAX = 4 * 1024;

const NO_TREE: ProgramTree = { dir: '/', entries: [] };

export async function startJailed(parts: JailParts, plan: JailPlan): Promise<Jailed> {
  checkPlan(plan);
  const tree = (await parts.trees?.current()) ?? NO_TREE;
  const identity = (await parts.identities?.acquire()) ?? null;
  const held = heldBy(plan, identity);
  try {
    return startWith(parts, plan, { tree, held });
  } catch (error) {
    await release(parts, held);
    throw error;
  }
}

/**
 * Like `startJailed`, for a process whose jail has neither a tree of copies nor a user of its own, so that there is
 * nothing to wait for.
 */
export function startJailedAsUser(parts: JailParts, plan: JailPlan): Jailed {
  assert(parts.trees === null && parts.identities === null, 'the jail needs time to start');
  checkPlan(plan);
  const held = heldBy(plan, null);
  try {
    return startWith(parts, plan, { tree: NO_TREE, held });
  } catch (error) {
    release(parts, held).catch((failure: unknown) => {
      parts.log.error('could not remove the control group of a VMM that did not start', {
        vm: plan.id,
        error: describeError(failure),
      });
    });
    throw error;
  }
}

function heldBy(plan: JailPlan, identity: Identity | null): Held {
  return { cgroup: null, identity, tablePath: join(plan.dir, `mounts.${plan.id}`) };
}

function startWith(
  parts: JailParts,
  plan: JailPlan,
  { tree, held }: { readonly tree: ProgramTree; readonly held: Held },
): Jailed {
  const fileBytes = openFiles(plan, held.identity);
  held.cgroup = makeCgroup(parts.cgroups, plan);
  return launch(parts, plan, { tree, held, fileBytes });
}

interface Held {
  cgroup: Cgroup | null;
  readonly identity: Identity | null;
  /** Exists while a process with its own user starts or runs. */
  readonly tablePath: string;
}

async function release({ identities }: JailParts, { cgroup, identity, tablePath }: Held): Promise<void> {
  rmSync(tablePath, { force: true });
  try {
    await cgroup?.remove();
  } finally {
    if (identity !== null) identities?.release(identity);
  }
}

function makeCgroup(cgroups: Cgroups | null, plan: JailPlan): Cgroup | null {
  const { diskLimits = {} } = plan;
  const io = hasDiskLimits(diskLimits) ? { io: ioLimits(pathsOf(plan), diskLimits) } : {};
  return cgroups?.create(plan.id, { ...limitsOf(plan), ...io }) ?? null;
}

function pathsOf({ files }: JailPlan): string[] {
  return files.flatMap(({ path, access }) => (access === 'read' || access === 'write' ? [path] : []));
}

export function limitsOf({
  memoryMib,
  sharedMib = 0,
  cpus,
  tasksMax,
  hasCpuLimit = true,
}: Pick<JailPlan, 'memoryMib' | 'sharedMib' | 'cpus' | 'tasksMax' | 'hasCpuLimit'>): CgroupLimits {
  return {
    memoryBytes: (memoryLimitMib(memoryMib) + sharedMib) * MIB,
    tasks: tasksMax ?? TASKS_MAX + cpus,
    // One more than the guest has, for I/O.
    cpus: hasCpuLimit ? cpus + 1 : null,
  };
}

function launch(
  parts: JailParts,
  plan: JailPlan,
  { tree, held, fileBytes }: { readonly tree: ProgramTree; readonly held: Held; readonly fileBytes: number },
): Jailed {
  const own = plan.stdio.length;
  const fds = { info: own, block: own + 1, seccomp: own + 2 };
  const { tools, stage } = parts;
  const { identity, tablePath } = held;
  const user = identity === null || stage === null ? null : { ...identity, stageDir: stage.dir, tablePath };
  const owner = process.pid;
  const [command = '', ...args] = jailCommand(plan, { tools, tree, user, fds, owner });
  if (user !== null && stage !== null) {
    writeFileSync(tablePath, stageTable(stage, tree, plan), { mode: 0o600, flag: 'wx' });
  }
  const seccomp = createMemFd('seccomp', 0);
  let block: number | undefined;
  let child: ChildProcess;
  try {
    block = openGate(join(plan.dir, `gate.${plan.id}`));
    const { filter = parts.filter } = plan;
    writeSync(seccomp, filter, 0, filter.length, 0);
    closeAllOnExec();
    const stdio = [...plan.stdio, 'pipe' as const, block, seccomp];
    const start = (): ChildProcess => spawn(command, args, { stdio, detached: true, cwd: '/', env: {} });
    child = plan.hugePages === false ? withoutHugePages(start) : start();
  } catch (error) {
    if (block !== undefined) closeFd(block);
    throw error;
  } finally {
    closeFd(seccomp);
  }
  let vmm: { pid: number; startTicks: string } | undefined;
  const pid = admit(child, { info: fds.info, gate: block }, (pid) => {
    vmm = { pid, startTicks: startTicksOf(pid) ?? '' };
    held.cgroup?.add(pid);
    const tasks = held.identity === null ? null : limitsOf(plan).tasks;
    setLimits(pid, { tasks, fileBytes, openFiles: plan.openFilesMax ?? OPEN_FILES_MAX });
  });
  // Its parent may be killed alone, and nothing else ends a VMM that outlives this process.
  child.once('exit', () => void (vmm && killIfRunning(vmm)));
  pid.catch((error: unknown) => ignore(error, 'the end of the process is reported as well'));
  let released: Promise<void> | undefined;
  return {
    child,
    pid,
    kill() {
      // The parent then reaps it and ends.
      if (vmm === undefined || !killIfRunning(vmm)) killGroup(child);
    },
    groups: held.cgroup?.dirs ?? [],
    limitDisks: (limits) => held.cgroup?.limitIo(ioLimits(pathsOf(plan), limits)),
    release() {
      released ??= release(parts, held);
      return released;
    },
  };
}

/**
 * A pipe whose reader also holds its writing end, so it stays blocked if this process is killed; the end of an ordinary
 * pipe would start a VMM without limits. @returns its descriptor, owned by the caller
 */
function openGate(path: string): number {
  makeFifo(path);
  try {
    return openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  } finally {
    rmSync(path, { force: true });
  }
}

/** Reads the pid from bubblewrap, sets the limits, and lets the VMM start. */
async function admit(
  child: ChildProcess,
  fds: { readonly info: number; readonly gate: number },
  limit: (pid: number) => void,
): Promise<number> {
  const info = child.stdio[fds.info] as Duplex | undefined;
  try {
    const pid = await readPid(child, info);
    limit(pid);
    writeSync(fds.gate, '\n');
    return pid;
  } catch (cause) {
    killGroup(child);
    throw cause instanceof JailError
      ? cause
      : new JailError('jail_failed', 'could not set the limits of a VMM', { cause });
  } finally {
    closeFd(fds.gate);
  }
}

/**
 * Kills bubblewrap with the child that it may have forked. The child ties its life to its parent only after the fork:
 * if only the parent were killed in between, the child would wait forever.
 */
function killGroup({ pid, exitCode, signalCode }: ChildProcess): void {
  // Not reaped yet, so the process group is still its own.
  if (pid === undefined || exitCode !== null || signalCode !== null) return;
  tryOr(undefined, 'it has ended, which its exit reports', () => process.kill(-pid, 'SIGKILL'));
}

function readPid(child: ChildProcess, info: Duplex | undefined): Promise<number> {
  return new Promise((resolve, reject) => {
    let text = '';
    const fail = (cause: unknown): void =>
      reject(new JailError('jail_failed', 'could not start a VMM in its jail', { cause }));
    child.once('error', fail);
    info?.on('error', (error) => ignore(error, 'reported by the end of the process'));
    info?.once('close', () => fail('bubblewrap ended before it had made the jail'));
    info?.on('data', (bytes: Buffer) => {
      text = (text + bytes.toString('latin1')).slice(0, INFO_BYTES_MAX);
      const pid = /"child-pid": *(\d+)\D/.exec(text)?.[1];
      if (pid !== undefined) resolve(Number(pid));
    });
  });
}

/** Sets limits of the process that becomes the VMM; none can be raised later. */
function setLimits(
  pid: number,
  limits: { readonly tasks: number | null; readonly fileBytes: number; readonly openFiles: number },
): void {
  const { tasks, fileBytes, openFiles } = limits;
  // A core dump would contain the guest's memory.
  setLimit(pid, 'core', 0);
  setLimit(pid, 'openFiles', openFiles);
  setLimit(pid, 'fileSize', fileBytes);
  setLimit(pid, 'lockedMemory', 0);
  setLimit(pid, 'messageQueues', 0);
  // Counted per user, so only for a user of its own.
  if (tasks !== null) setLimit(pid, 'processes', tasks);
}

/**
 * Checks each file, and makes the VMM's user the owner of writable ones.
 * @returns the size limit of its largest file, bytes
 */
function openFiles(plan: JailPlan, identity: Identity | null): number {
  let largest = 0;
  for (const { path, access } of plan.files) {
    if (access === 'write') largest = Math.max(largest, give(path, plan.dir, identity));
    else if (access === 'own') assert(identity === null, 'a directory is lent to another user');
    else if (identity !== null) checkOpenToOthers(path, access, identity);
  }
  return fileLimitBytes(plan.memoryMib, largest);
}

/** @returns its size */
function give(path: string, dir: string, identity: Identity | null): number {
  let fd: number;
  try {
    if (realpathSync(dirname(path)) !== realpathSync(dir)) throw new Error(`it is not in ${dir}`);
    fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (cause) {
    throw invalid('files', `${path} can't be opened for writing: ${String(cause)}`);
  }
  try {
    const found = fstatSync(fd);
    // A hard link elsewhere may be read by others.
    if (!found.isFile() || found.nlink !== 1) throw invalid('files', `${path} is not a regular file with one link`);
    if (identity !== null) fchownSync(fd, identity.uid, identity.gid);
    return found.size;
  } finally {
    closeSync(fd);
  }
}

/** Mode bits for one class of users. */
const WANTED = { read: 0o4, tree: 0o5, device: 0o6 } as const;

function checkOpenToOthers(path: string, access: keyof typeof WANTED, identity: Identity): void {
  const { mode, gid } = statSync(path);
  const wanted = WANTED[access];
  const isOpen = (mode & wanted) === wanted || (gid === identity.gid && ((mode >> 3) & wanted) === wanted);
  if (isOpen) return;
  const readers = access === 'device' ? 'its group' : 'all users';
  throw invalid('files', `${path} can't be opened by ${readers}`, `chmod it so that ${readers} can open it`);
}
