/** The host's side of VMMs' memory: the control group that a jail has made for each of them alone. */
import { readFileSync } from 'node:fs';
import type { Clock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { findCgroups } from '../jail/cgroup-paths.ts';
import { CgroupMemory } from '../observe/cgroup-memory.ts';
import type { HostMemoryEvents } from '../sandbox/memory-events.ts';
import type { Launch } from '../vmm/launch.ts';

export class VmmMemory {
  readonly #clock: Clock;
  /** By the directory of the group. */
  readonly #watched = new Map<string, CgroupMemory>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Null: it has no group of its own (there is no jail, or no group can be made here), or it has ended. */
  watch(vmmPid: number): HostMemoryEvents | null {
    const dir = memoryGroup(`${vmmPid}`);
    if (dir === undefined || dir === memoryGroup('self')) return null;
    const memory = new CgroupMemory(dir, this.#clock);
    this.#watched.set(dir, memory);
    return memory;
  }

  /** Groups are about to go: what the kernel has done in them is known then. Fine for those that nobody watches. */
  lastLook(groups: readonly string[]): void {
    for (const dir of groups) {
      this.#watched.get(dir)?.look();
      this.#watched.delete(dir);
    }
  }

  /** Of VMMs that are started so, each group is looked at before it goes. */
  around(launch: Launch): Launch {
    return async (plan) => {
      const launched = await launch(plan);
      const group = launched.pid.then(
        (pid) => memoryGroup(`${pid}`),
        (error: unknown) => ignore(error, 'the start has told it'),
      );
      const release = async (): Promise<void> => {
        const dir = await group;
        if (dir !== undefined) this.lastLook([dir]);
        await launched.release();
      };
      return { ...launched, release };
    };
  }
}

/** The directory of its group with the controller `memory`, as this process sees it. @param pid or `self` */
export function memoryGroup(pid: string): string | undefined {
  try {
    const groups = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
    const { v1, v2 } = findCgroups(readFileSync('/proc/self/mountinfo', 'utf8'), groups);
    return v1.get('memory') ?? v2?.dir;
  } catch (error) {
    ignore(error, 'no such process any more');
    return undefined;
  }
}
