/**
 * Empties a delegated group of cgroup v2, so that its children can have controllers ("no internal processes",
 * cgroup-v2.rst): its processes move into a leaf below it, which has no limits of its own. systemd expects that of services
 * with `Delegate=` (CGROUP_DELEGATION.md), and removes the leaf with the unit.
 *
 *     <the unit's group>/neurovisor-self   NeuroVisor
 *                       /neurovisor/…      its VMMs
 */
import { basename, dirname, join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { parentOf } from '../../sys/process-start.ts';
import type { CgroupFiles } from './cgroup-files.ts';

const LEAF = 'neurovisor-self';
/** Repeats, since a process may fork between the look at the group and its own move. */
const ROUNDS_MAX = 10;
/** Maximum length of a chain of parents; processes with longer ones count as unrelated. */
const ANCESTORS_MAX = 256;

export interface ProcessTable {
  readonly pid: number;
  /** Its effective user id. */
  readonly uid: number;
  /** 0 if the parent is outside of this pid namespace, or there is none; undefined if the process has ended. */
  parentOf(pid: number): number | undefined;
}

export const kernelProcesses: ProcessTable = { pid: process.pid, uid: process.geteuid?.() ?? 0, parentOf };

/** @param own the group of this process, possibly the leaf of an earlier move */
export function groupToEmpty(own: string): string {
  return basename(own) === LEAF ? dirname(own) : own;
}

/**
 * Moves all processes of the group into the leaf, until `attempt` succeeds. Moves none if one of them is neither this
 * process nor its ancestor or descendant, or if the group is not this process's to arrange; moves all back if `attempt`
 * fails.
 *
 * @param attempt returns undefined on failure
 */
export function intoLeaf<T>(
  files: CgroupFiles,
  processes: ProcessTable,
  dir: string,
  attempt: () => T | undefined,
): T | undefined {
  try {
    if (!files.isDelegated(dir) && !isOwn(files, processes, dir)) return undefined;
    for (let round = 0; round < ROUNDS_MAX; round += 1) {
      if (hasForeign(files, processes, dir)) break;
      moveAll(files, processes, dir, join(dir, LEAF));
      const result = attempt();
      if (result !== undefined) return result;
      if (list(files, dir).length === 0) break;
    }
  } catch (error) {
    ignore(error, 'no leaf can be made or filled here: reported as a gap of the jail');
  }
  putBack(files, processes, dir);
  return undefined;
}

/** Root owns every group, so for root the owner proves nothing. */
function isOwn(files: CgroupFiles, { uid }: ProcessTable, dir: string): boolean {
  return uid !== 0 && files.owner(dir) === uid;
}

/** A process that ends between the two looks is not foreign. */
function hasForeign(files: CgroupFiles, processes: ProcessTable, dir: string): boolean {
  const foreign = list(files, dir).filter((pid) => !isRelated(processes, pid));
  return foreign.length > 0 && list(files, dir).some((pid) => foreign.includes(pid));
}

/**
 * Moves the related processes. If a pid now belongs to a process elsewhere, the kernel refuses: a move needs write
 * access to `cgroup.procs` of the nearest common ancestor group.
 */
function moveAll(files: CgroupFiles, processes: ProcessTable, from: string, to: string): void {
  const pids = list(files, from).filter((pid) => isRelated(processes, pid));
  if (pids.length > 0 && !files.exists(to)) files.make(to);
  for (const pid of pids) {
    try {
      files.write(join(to, 'cgroup.procs'), String(pid));
    } catch (error) {
      if (errorCode(error) !== 'ESRCH') throw error;
      ignore(error, 'the process has ended');
    }
  }
}

function putBack(files: CgroupFiles, processes: ProcessTable, dir: string): void {
  const leaf = join(dir, LEAF);
  try {
    if (!files.exists(leaf)) return;
    moveAll(files, processes, leaf, dir);
    files.remove(leaf);
  } catch (error) {
    ignore(error, 'others use the leaf, which has no limits');
  }
}

/** Whether the process is this one, its ancestor or its descendant. */
function isRelated(processes: ProcessTable, pid: number): boolean {
  return isWithin(processes, pid, processes.pid) || isWithin(processes, processes.pid, pid);
}

/** Whether `pid` is `root` or its descendant. A 0 in `cgroup.procs` is a process of another pid namespace. */
function isWithin(processes: ProcessTable, pid: number, root: number): boolean {
  let current: number | undefined = pid;
  for (let steps = 0; steps < ANCESTORS_MAX && current !== undefined && current > 0; steps += 1) {
    if (current === root) return true;
    current = processes.parentOf(current);
  }
  return false;
}

/** @throws as `read` does, for example EOPNOTSUPP in a threaded group */
function list(files: CgroupFiles, dir: string): number[] {
  const lines = files.read(join(dir, 'cgroup.procs')).split('\n');
  return lines.filter((line) => line !== '').map(Number);
}
