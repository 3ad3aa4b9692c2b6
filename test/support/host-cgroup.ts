/** A control group of this host with a memory limit, for tests; needs root, and v1 or v2 with memory. */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ignore } from '../../src/base/ignore.ts';
import { type Requirement, requires } from './requires.ts';

export interface HostCgroup {
  readonly dir: string;
  limit(bytes: number): void;
  add(pid: number): void;
  /** Call after its processes have ended. */
  remove(): Promise<void>;
}

/** Version 1 of control groups with a controller, as root. */
export function requiresCgroupV1(controller: string): Requirement<true> {
  if (process.geteuid?.() !== 0) return requires<true>('cgroup-v1', 'it is not root');
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
  const hasIt = new RegExp(`cgroup \\S+ \\S*\\b${controller}\\b`).test(mounts);
  return requires('cgroup-v1', hasIt || `control groups of version 1 without ${controller}`);
}

const REMOVE_TRIES = 100;

/** @returns null if no group can be made here */
export function makeHostCgroup(name: string): HostCgroup | null {
  const own = readFileSync('/proc/self/cgroup', 'utf8').split('\n');
  const v1 = own.find((line) => line.split(':')[1] === 'memory')?.split(':')[2];
  const parents = [...(v1 === undefined ? [] : [`/sys/fs/cgroup/memory${v1}`]), '/sys/fs/cgroup'];
  for (const parent of parents) {
    const dir = join(parent, `${name}-${process.pid}`);
    try {
      mkdirSync(dir);
    } catch (error) {
      ignore(error, 'not here');
      continue;
    }
    const file = limitFileOf(dir);
    if (file === undefined) rmdirSync(dir);
    else return groupAt(dir, file);
  }
  return null;
}

function groupAt(dir: string, limitFile: string): HostCgroup {
  return {
    dir,
    limit: (bytes) => writeFileSync(limitFile, `${bytes}`),
    add: (pid) => writeFileSync(join(dir, 'cgroup.procs'), `${pid}`),
    async remove() {
      for (let n = 0; n < REMOVE_TRIES; n += 1) {
        try {
          rmdirSync(dir);
          return;
        } catch (error) {
          ignore(error, 'its last process has not gone yet');
          await sleep(20);
        }
      }
      throw new Error(`${dir} could not be removed`);
    },
  };
}

/** For a group that exists already. */
export function limitGroup(dir: string, bytes: number): void {
  const file = limitFileOf(dir);
  if (file === undefined) throw new Error(`${dir} has no limit of memory`);
  writeFileSync(file, `${bytes}`);
}

function limitFileOf(dir: string): string | undefined {
  return ['memory.limit_in_bytes', 'memory.max'].map((limit) => join(dir, limit)).find((path) => existsSync(path));
}
