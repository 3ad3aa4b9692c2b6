/**
 * How a VMM process is confined. Whoever takes it over from inside the guest holds:
 *
 *     a user id of its own      nothing on the host belongs to it but its disk
 *     an empty root             its program, read-only; kernel and golden image, read-only; its disk
 *     no network, no /proc      namespaces of its own, in which it is alone
 *     no capability, ever       none in the bounding set, no_new_privs
 *     a list of system calls    seccomp: `compile.ts` makes it of `policy/`
 *     limits                    a control group (`cgroup.ts`) and rlimits
 *
 *     daemon ── nsenter ── setpriv ── bwrap ─┬─ stays, as the parent; ends when the daemon does
 *                                            └─ mounts … waits ──► the VMM (same pid; ends when bwrap does)
 *                              daemon: control group, rlimits ─► "go on"
 *
 * The VMM is let go only when its limits are set. An ordinary user's VMMs keep that user's id; all else holds.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  constants,
  fchownSync,
  fstatSync,
  openSync,
  realpathSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import { type DiskLimits, hasDiskLimits } from '../base/disk-limits.ts';
import { ignore } from '../base/ignore.ts';
import type { Log } from '../base/log.ts';
import { MIB } from '../base/units.ts';
import { closeAllOnExec } from '../sys/close-on-exec.ts';
import { closeFd, createMemFd } from '../sys/fd.ts';
import { isRunning, startTicksOf } from '../sys/process-start.ts';
import { setLimit } from '../sys/rlimit.ts';
import type { Cgroup, Cgroups } from './cgroup.ts';
import type { CgroupLimits } from './cgroup-settings.ts';
import { ioLimits } from './disk-io.ts';
import { JailError } from './errors.ts';
import type { Identities, Identity } from './identity.ts';
import { checkPlan, invalid, type JailPlan, type JailTools, jailCommand } from './plan.ts';
import type { ProgramTree, ProgramTrees } from './program-tree.ts';

/** A process in its jail, or on its way there. */
export interface Jailed {
  /** Its parent: bubblewrap. Its end is the VMM's; a status of 128 + n says that signal n ended the VMM. */
  readonly child: ChildProcess;
  /** The VMM's own, once it has all its limits. @throws JailError `jail_failed` */
  readonly pid: Promise<number>;
  /** Ends the VMM. Idempotent; `child` tells when it is over. */
  kill(): void;
  /** Changes the plan's. */
  limitDisks(limits: DiskLimits): void;
  /** After the end of `child`: nothing of the jail is left. Idempotent. */
  release(): Promise<void>;
}

export interface JailParts {
  readonly tools: JailTools;
  readonly trees: ProgramTrees;
  /** `struct sock_filter[]`. */
  readonly filter: Uint8Array;
  /** Null: VMMs keep the user id of this process. */
  readonly identities: Identities | null;
  /** Null: none can be made here. */
  readonly cgroups: Cgroups | null;
  readonly log: Log;
}

/** What a VMM takes beside the guest's RAM: code that it generates (128 MiB at most) and its own data. */
const OVERHEAD_MIB = 128 + 64;
/** Page tables are an entry of 8 bytes for each 4 KiB, and KVM has some of its own. */
const RAM_PER_TABLES = 256;

/** The largest file that it may write, bytes: its disk, RAM, or the state that it saves. */
export function fileLimitBytes(memoryMib: number, diskBytes: number): number {
  return Math.max(memoryMib * MIB, OVERHEAD_MIB * MIB, diskBytes);
}

/** What a VMM may take of the host's memory, with the guest's RAM. */
export function memoryLimitMib(memoryMib: number): number {
  return memoryMib + OVERHEAD_MIB + Math.ceil(memoryMib / RAM_PER_TABLES);
}
/** Threads: a pool for the disk of 64 at most, one per processor of the guest, and some. */
export const TASKS_MAX = 80;
const OPEN_FILES_MAX = 256;
const INFO_BYTES_MAX = 4 * 1024;

export async function startJailed(parts: JailParts, plan: JailPlan): Promise<Jailed> {
  checkPlan(plan);
  const tree = await parts.trees.current();
  const identity = (await parts.identities?.acquire()) ?? null;
  const held: Held = { cgroup: null, identity };
  try {
    const fileBytes = openFiles(plan, identity);
    held.cgroup = makeCgroup(parts.cgroups, plan);
    return launch(parts, plan, { tree, held, fileBytes });
  } catch (error) {
    await release(parts, held);
    throw error;
  }
}

interface Held {
  cgroup: Cgroup | null;
  readonly identity: Identity | null;
}

async function release({ identities }: JailParts, { cgroup, identity }: Held): Promise<void> {
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
  return files.flatMap(({ path, access }) => (access === 'device' ? [] : [path]));
}

/** Of a VMM whose guest has this size. */
export function limitsOf({ memoryMib, cpus }: Pick<JailPlan, 'memoryMib' | 'cpus'>): CgroupLimits {
  return {
    memoryBytes: memoryLimitMib(memoryMib) * MIB,
    tasks: TASKS_MAX + cpus,
    // One more than the guest has: for its disk and its screen.
    cpus: cpus + 1,
  };
}

function launch(
  parts: JailParts,
  plan: JailPlan,
  {
    tree,
    held,
    fileBytes,
  }: { readonly tree: ProgramTree; readonly held: Held; readonly fileBytes: number },
): Jailed {
  const own = plan.stdio.length;
  const fds = { info: own, block: own + 1, seccomp: own + 2 };
  const { tools } = parts;
  const namespacePath = held.identity?.namespacePath ?? null;
  const [command = '', ...args] = jailCommand(plan, { tools, tree, namespacePath, fds });
  const seccomp = createMemFd('seccomp', 0);
  let child: ChildProcess;
  try {
    writeSync(seccomp, parts.filter, 0, parts.filter.length, 0);
    closeAllOnExec();
    child = spawn(command, args, {
      stdio: [...plan.stdio, 'pipe', 'pipe', seccomp],
      detached: true,
      cwd: '/',
      env: {},
    });
  } finally {
    closeFd(seccomp);
  }
  let vmm: { pid: number; startTicks: string } | undefined;
  const pid = admit(child, fds, (pid) => {
    vmm = { pid, startTicks: startTicksOf(pid) ?? '' };
    held.cgroup?.add(pid);
    setLimits(pid, held.identity === null ? null : TASKS_MAX + plan.cpus, fileBytes);
  });
  pid.catch((error: unknown) => ignore(error, 'the end of the process is told too'));
  let released: Promise<void> | undefined;
  return {
    child,
    pid,
    kill() {
      // Its parent then tells of its end, and has it out of the process table before.
      if (vmm !== undefined && isRunning(vmm)) process.kill(vmm.pid, 'SIGKILL');
      else child.kill('SIGKILL');
    },
    limitDisks: (limits) => held.cgroup?.limitIo(ioLimits(pathsOf(plan), limits)),
    release() {
      released ??= release(parts, held);
      return released;
    },
  };
}

/** Once bubblewrap tells the pid, sets the limits and lets it go on. */
async function admit(
  child: ChildProcess,
  fds: { readonly info: number; readonly block: number },
  limit: (pid: number) => void,
): Promise<number> {
  const info = child.stdio[fds.info] as Duplex | undefined;
  const block = child.stdio[fds.block] as Duplex | undefined;
  block?.on('error', (error) => ignore(error, 'a jail that has ended: told by its exit'));
  try {
    const pid = await readPid(child, info);
    limit(pid);
    block?.end('\n');
    return pid;
  } catch (cause) {
    block?.destroy();
    child.kill('SIGKILL');
    throw cause instanceof JailError
      ? cause
      : new JailError('jail_failed', 'set the limits of a VMM', { cause });
  }
}

function readPid(child: ChildProcess, info: Duplex | undefined): Promise<number> {
  return new Promise((resolve, reject) => {
    let text = '';
    const fail = (cause: unknown): void =>
      reject(new JailError('jail_failed', 'start a VMM in its jail', { cause }));
    child.once('error', fail);
    info?.on('error', (error) => ignore(error, 'told by its end'));
    info?.once('close', () => fail('bubblewrap ended before it had made the jail'));
    info?.on('data', (bytes: Buffer) => {
      text = (text + bytes.toString('latin1')).slice(0, INFO_BYTES_MAX);
      const pid = /"child-pid": *(\d+)\D/.exec(text)?.[1];
      if (pid !== undefined) resolve(Number(pid));
    });
  });
}

/** Of the process that becomes the VMM; none can be raised again. */
function setLimits(pid: number, tasks: number | null, fileBytes: number): void {
  // A core would hold the guest's memory.
  setLimit(pid, 'core', 0);
  setLimit(pid, 'openFiles', OPEN_FILES_MAX);
  setLimit(pid, 'fileSize', fileBytes);
  setLimit(pid, 'lockedMemory', 0);
  setLimit(pid, 'messageQueues', 0);
  // Counted by user: only where it has one of its own.
  if (tasks !== null) setLimit(pid, 'processes', tasks);
}

/**
 * Makes sure of what each file is, and gives those that it writes to the VMM's user.
 * @returns bytes that its largest file may have
 */
function openFiles(plan: JailPlan, identity: Identity | null): number {
  let largest = 0;
  for (const { path, access } of plan.files) {
    if (access === 'write') largest = Math.max(largest, give(path, plan.dir, identity));
    else if (identity !== null) checkOpenToOthers(path, access, identity);
  }
  return fileLimitBytes(plan.memoryMib, largest);
}

/** @returns its size */
function give(path: string, dir: string, identity: Identity | null): number {
  let fd: number;
  try {
    if (realpathSync(dirname(path)) !== realpathSync(dir)) throw new Error('it is elsewhere');
    fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (cause) {
    throw invalid('files', `${path} can't be given to it: ${String(cause)}`);
  }
  try {
    const found = fstatSync(fd);
    // Another name of the file may be in a place where it would be read.
    if (!found.isFile() || found.nlink !== 1)
      throw invalid('files', `${path} is no file of its own`);
    if (identity !== null) fchownSync(fd, identity.uid, identity.gid);
    return found.size;
  } finally {
    closeSync(fd);
  }
}

function checkOpenToOthers(path: string, access: 'read' | 'device', identity: Identity): void {
  const { mode, gid } = statSync(path);
  const wanted = access === 'read' ? 0o4 : 0o6;
  const isOpen =
    (mode & wanted) === wanted || (gid === identity.gid && ((mode >> 3) & wanted) === wanted);
  if (isOpen) return;
  const who = access === 'read' ? 'all users' : 'a group';
  throw invalid('files', `${path} is not open to ${who}`, `chmod it so that ${who} may open it`);
}
