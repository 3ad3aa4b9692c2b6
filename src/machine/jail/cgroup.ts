/**
 * A VMM's control group: its limits of memory, threads, CPU time and disk I/O on the host (I/O). A group's name contains
 * its owner, so that the groups of a killed NeuroVisor are found:
 *
 *     <group of this process>/neurovisor/<vm>.<pid of the owner>.<its start>
 *
 * The owner is this process, or the one for which its VMMs are kept while it is replaced. Of such an owner, a process
 * that works with a group holds it, too: it outlives its owner by the time that it needs to pause its VMs.
 *
 * v2 has one more rule: a group with processes of its own gives no controllers to its children ("no internal
 * processes", cgroups(7)). So this process leaves a group that systemd has delegated to it (cgroup-leaf.ts). Otherwise the
 * parent is the nearest ancestor that has the needed controllers and is writable; without one, it tries to leave its own.
 */
import { dirname, join } from 'node:path';
import { sleep } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore, tryOr } from '../../base/ignore.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { isRunning, startTicksOf } from '../../sys/process-start.ts';
import { type CgroupAttempt, type CgroupFault, explainCgroupFault } from './cgroup-fault.ts';
import { type CgroupFiles, kernelFiles, wordsOf } from './cgroup-files.ts';
import { groupToEmpty, intoLeaf, kernelProcesses, type ProcessTable } from './cgroup-leaf.ts';
import { type CgroupPaths, CONTROLLERS, type Controller } from './cgroup-paths.ts';
import { type CgroupLimits, type Hierarchy, ioFiles, isNeeded, limitFiles } from './cgroup-settings.ts';
import type { IoLimits } from './disk-io.ts';
import { JailError } from './errors.ts';

const PARENT = 'neurovisor';
/** Without one of these the jail reports a gap. */
const NEEDED: readonly Controller[] = ['memory', 'pids'];
/** Without one of these a limit is missing; a warning reports that once the limit is requested. */
const LESS_NEEDED = { cpu: 'CPU time', blkio: 'disk I/O' } as const;
const REMOVE_MS_MAX = 2_000;
const REMOVE_POLL_MS = 5;

interface Tree extends Hierarchy {
  /** `/sys/fs/cgroup/memory/…/neurovisor`, already created. */
  readonly parent: string;
}

export interface Cgroup {
  /** Its directory in each hierarchy. */
  readonly dirs: readonly string[];
  /** @throws JailError `jail_failed` */
  add(pid: number): void;
  /**
   * Replaces the limits of these disks. Skips a disk that the kernel can't limit. Version 1 does not count delayed
   * writes (the page cache).
   */
  limitIo(limits: IoLimits): void;
  /** Kills its processes and removes it. @throws JailError `jail_failed` */
  remove(): Promise<void>;
}

/** A process by pid and start time. */
export interface GroupOwner {
  readonly pid: number;
  readonly startTicks: string;
}

/** For the groups of a VMM that another process has made: other processes leave them alone while this one runs. */
export function holdGroups(dirs: readonly string[]): void {
  for (const dir of dirs) tryOr(undefined, 'the VM has ended', () => kernelFiles.hold(dir));
}

/** Removes the groups of a VMM that another process has made, and ends what runs in them. @throws JailError */
export async function removeGroups(dirs: readonly string[]): Promise<void> {
  await removeAll(kernelFiles, dirs);
}

export class Cgroups {
  readonly #files: CgroupFiles;
  readonly #paths: CgroupPaths;
  readonly #trees: readonly Tree[];
  readonly #attempts: CgroupAttempt[] = [];
  readonly #owner: string;
  readonly #isKept: boolean;
  readonly #log: Log;
  readonly #warned = new Set<keyof typeof LESS_NEEDED>();

  /**
   * @param files, processes for tests; default: the kernel's
   * @param keeper owner of the groups. Default: this process
   */
  constructor(
    paths: CgroupPaths,
    files: CgroupFiles = kernelFiles,
    processes: ProcessTable = kernelProcesses,
    log: Log = silentLog,
    keeper?: GroupOwner,
  ) {
    this.#files = files;
    this.#log = log;
    this.#paths = paths;
    this.#trees = findTrees(paths, { files, processes }, (attempt) => this.#attempts.push(attempt));
    const { pid, startTicks } = keeper ?? { pid: process.pid, startTicks: startTicksOf(process.pid) ?? '' };
    this.#owner = `${pid}.${startTicks}`;
    this.#isKept = keeper !== undefined;
  }

  /** The kernel's names, for example `memory`, `pids`. */
  get controllers(): readonly Controller[] {
    return this.#trees.flatMap((tree) => tree.controllers);
  }

  /** Text that lists the limits that groups have and lack. */
  get description(): string {
    const { controllers } = this;
    const absent = CONTROLLERS.filter((name) => !controllers.includes(name));
    const none = absent.length === 0 ? '' : ` (none of ${absent.join(', ')})`;
    return `limits of ${controllers.join(', ')}${none}`;
  }

  /** The needed controllers that this host lacks, and why; `null` if there are none. */
  get missing(): (CgroupFault & { readonly names: string }) | null {
    const missing = NEEDED.filter((name) => !this.controllers.includes(name));
    if (missing.length === 0) return null;
    const at = (dir: string): Set<string> => wordsOf(this.#files, join(dir, 'cgroup.controllers'));
    const fault = explainCgroupFault(missing, this.#paths, this.#attempts, at);
    return { names: missing.join(', '), ...fault };
  }

  /** @param id `[a-z0-9]+`. @throws JailError `jail_failed` */
  create(id: string, limits: CgroupLimits): Cgroup {
    const made: { dir: string; tree: Tree }[] = [];
    const files = this.#files;
    try {
      for (const tree of this.#trees) {
        if (!isNeeded(tree, limits)) continue;
        const dir = join(tree.parent, `${id}.${this.#owner}`);
        files.make(dir);
        made.push({ dir, tree });
        if (this.#isKept) files.hold(dir);
        for (const [file, value] of limitFiles(tree, limits)) {
          writeSetting(files, join(dir, file.name), value, file.optional);
        }
        if (limits.io !== undefined) limitIo(files, dir, tree, limits.io);
      }
      if (limits.cpus !== null) this.#warnWithout('cpu');
      if (limits.io !== undefined) this.#warnWithoutIo(limits.io);
    } catch (cause) {
      for (const { dir } of made) files.remove(dir);
      throw new JailError('jail_failed', `could not make a control group for the VM ${id}`, { cause });
    }
    const dirs = made.map(({ dir }) => dir);
    return {
      dirs,
      add: (pid) => addTo(files, dirs, pid),
      limitIo: (io) => {
        for (const { dir, tree } of made) limitIo(files, dir, tree, io);
        this.#warnWithoutIo(io);
      },
      remove: () => removeAll(files, dirs),
    };
  }

  #warnWithoutIo({ bytesPerSecond, opsPerSecond }: IoLimits): void {
    if (bytesPerSecond !== null || opsPerSecond !== null) this.#warnWithout('blkio');
  }

  /**
   * The limit is missing, for example in a root login session, whose groups get only memory and pids from systemd.
   * Ancestors are not used: the limits of a user's slice must apply to VMMs as well.
   */
  #warnWithout(name: keyof typeof LESS_NEEDED): void {
    const { controllers } = this;
    if (controllers.length === 0 || controllers.includes(name) || this.#warned.has(name)) return;
    this.#warned.add(name);
    const { v2 } = this.#paths;
    const tree = this.#trees.find(({ version }) => version === 2);
    const isOffered = v2 !== null && offered(this.#files, v2.mount, [name]).length > 0;
    this.#log.warn(`the control groups of VMMs do not limit their ${LESS_NEEDED[name]}`, {
      reason:
        isOffered && tree !== undefined
          ? `${dirname(tree.parent)} has no controller ${v2Name(name)}`
          : `no control group here has the controller ${v2Name(name)}`,
      remedy: isOffered
        ? 'start NeuroVisor in a systemd unit with Delegate=yes (docs/daemon.md, As a systemd service)'
        : 'see docs/security.md (Hosts); the VMM limits its guest itself',
    });
  }

  /**
   * Removes the groups of owners that no longer run and that nobody holds, and ends what runs in them.
   * @param kept the VMs of this owner that stay. Default: all
   * @returns the number of groups
   */
  async reclaim(kept?: ReadonlySet<string>): Promise<number> {
    const left = new Set<string>();
    for (const { parent } of this.#trees) {
      for (const name of this.#files.list(parent)) {
        const match = /^([a-z0-9]+)\.((\d+)\.(\d+))$/.exec(name);
        if (match === null) continue;
        const [, id = '', owner, pid = '', startTicks = ''] = match;
        const isLost = kept !== undefined && owner === this.#owner && !kept.has(id);
        const path = join(parent, name);
        const isOwned = isRunning({ pid: Number(pid), startTicks }) || this.#files.isHeld(path);
        if (isLost || !isOwned) left.add(path);
      }
    }
    await removeAll(this.#files, [...left]);
    return left.size;
  }
}

function limitIo(files: CgroupFiles, dir: string, tree: Tree, limits: IoLimits): void {
  if (!tree.controllers.includes('blkio')) return;
  for (const disk of limits.disks) {
    for (const [name, value] of ioFiles(tree.version, limits)) {
      tryOr(undefined, 'the kernel or the disk has no such limit: the VMM enforces its own', () =>
        files.write(join(dir, name), `${disk} ${value}`),
      );
    }
  }
}

function writeSetting(files: CgroupFiles, path: string, value: string, optional = false): void {
  try {
    files.write(path, value);
  } catch (error) {
    // The kernel lacks swap accounting or bandwidth control.
    if (!optional || errorCode(error) !== 'ENOENT') throw error;
  }
}

function addTo(files: CgroupFiles, dirs: readonly string[], pid: number): void {
  try {
    for (const dir of dirs) files.write(join(dir, 'cgroup.procs'), String(pid));
  } catch (cause) {
    throw new JailError('jail_failed', `could not put the process ${pid} into its control group`, { cause });
  }
}

async function removeAll(files: CgroupFiles, dirs: readonly string[]): Promise<void> {
  const failures: unknown[] = [];
  for (const dir of dirs) {
    await removeOne(files, dir).catch((error: unknown) => failures.push(error));
  }
  if (failures.length === 0) return;
  const cause = failures.map(describeError).join('; ');
  throw new JailError('jail_failed', 'could not remove a control group', { cause });
}

/** The kernel releases a group a moment after its last process ended. */
async function removeOne(files: CgroupFiles, dir: string): Promise<void> {
  for (let waitedMs = 0; ; waitedMs += REMOVE_POLL_MS) {
    try {
      files.remove(dir);
      return;
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return;
      if (errorCode(error) !== 'EBUSY' || waitedMs >= REMOVE_MS_MAX) throw error;
    }
    for (const pid of processesIn(files, dir)) endProcess(pid);
    await sleep(REMOVE_POLL_MS);
  }
}

function processesIn(files: CgroupFiles, dir: string): number[] {
  return tryOr([], 'the control group is gone', () => {
    const text = files.read(join(dir, 'cgroup.procs'));
    return text
      .split('\n')
      .map(Number)
      .filter((pid) => pid > 0);
  });
}

function endProcess(pid: number): void {
  tryOr(undefined, 'the process has already ended', () => process.kill(pid, 'SIGKILL'));
}

type Note = (attempt: CgroupAttempt) => void;

interface Host {
  readonly files: CgroupFiles;
  readonly processes: ProcessTable;
}

function findTrees(paths: CgroupPaths, host: Host, note: Note): Tree[] {
  const trees: Tree[] = [];
  for (const [controller, dir] of paths.v1) {
    // Two controllers of one mount are one tree.
    const known = trees.findIndex(({ parent }) => parent === join(dir, PARENT));
    const one = trees[known];
    if (one !== undefined) trees[known] = { ...one, controllers: [...one.controllers, controller] };
    else if (makeParent(host.files, dir, note))
      trees.push({ parent: join(dir, PARENT), controllers: [controller], version: 1 });
  }
  const missing = CONTROLLERS.filter((name) => !paths.v1.has(name));
  if (paths.v2 === null) return trees;
  const { v2 } = paths;
  const above = (): Tree | undefined => findUnified(host.files, v2, missing, note);
  const room = (): Tree | undefined => makeRoom(host, v2, missing, note);
  // If systemd says that the group is ours, its limits apply to the VMMs too, and systemd arranges the ancestors.
  const isDelegated = host.files.isDelegated(groupToEmpty(v2.dir));
  const unified = isDelegated ? (room() ?? above()) : (above() ?? room());
  return unified === undefined ? trees : [...trees, unified];
}

/** @returns whether groups can be created below `dir`; tries it */
function makeParent(files: CgroupFiles, dir: string, note: Note): boolean {
  const parent = join(dir, PARENT);
  try {
    if (!files.exists(parent)) files.make(parent);
  } catch (error) {
    note({ dir, step: 'make', code: errorCode(error) });
    ignore(error, 'another process made it, or none can be made here; the next step finds out');
  }
  try {
    const child = join(parent, `try.${process.pid}.${startTicksOf(process.pid) ?? ''}`);
    files.make(child);
    files.remove(child);
    return true;
  } catch (error) {
    note({ dir: parent, step: 'make', code: errorCode(error) });
    ignore(error, 'no group can be made here: reported as a gap of the jail');
    return false;
  }
}

/** Finds the nearest ancestor group whose children can have the missing controllers. */
function findUnified(
  files: CgroupFiles,
  v2: NonNullable<CgroupPaths['v2']>,
  missing: readonly Controller[],
  note: Note,
): Tree | undefined {
  for (let dir = v2.dir; dir.startsWith(v2.mount); dir = dirname(dir)) {
    const tree = unifiedAt(files, dir, missing, note);
    if (tree !== undefined || dir === v2.mount) return tree;
  }
  return undefined;
}

/** For a group that no ancestor can replace: moves its processes into a leaf, if they are all related to this one. */
function makeRoom(
  { files, processes }: Host,
  v2: NonNullable<CgroupPaths['v2']>,
  missing: readonly Controller[],
  note: Note,
): Tree | undefined {
  const dir = groupToEmpty(v2.dir);
  if (!isUseful(offered(files, dir, missing))) return undefined;
  return intoLeaf(files, processes, dir, () => unifiedAt(files, dir, missing, note));
}

function unifiedAt(files: CgroupFiles, dir: string, missing: readonly Controller[], note: Note): Tree | undefined {
  const controllers = offered(files, dir, missing);
  if (!isUseful(controllers) || !enable(files, dir, controllers, note)) return undefined;
  const parent = join(dir, PARENT);
  const isMade = makeParent(files, dir, note) && enable(files, parent, controllers, note);
  return isMade ? { parent, controllers, version: 2 } : undefined;
}

function offered(files: CgroupFiles, dir: string, missing: readonly Controller[]): Controller[] {
  const there = wordsOf(files, join(dir, 'cgroup.controllers'));
  return missing.filter((name) => there.has(v2Name(name)));
}

const isUseful = (controllers: readonly Controller[]): boolean => controllers.some((name) => NEEDED.includes(name));

const v2Name = (name: Controller): string => (name === 'blkio' ? 'io' : name);

function enable(files: CgroupFiles, dir: string, controllers: readonly Controller[], note: Note): boolean {
  try {
    const path = join(dir, 'cgroup.subtree_control');
    const there = wordsOf(files, path);
    const more = controllers.map(v2Name).filter((name) => !there.has(name));
    if (more.length > 0) {
      files.write(path, more.map((name) => `+${name}`).join(' '));
    }
    return true;
  } catch (error) {
    note({ dir, step: 'enable', code: errorCode(error) });
    ignore(error, 'not ours, or with processes of its own: the next ancestor is tried');
    return false;
  }
}
