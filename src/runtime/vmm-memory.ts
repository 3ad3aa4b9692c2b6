/** The host's side of VMMs' memory: the control group that a jail has made for each of them alone. */
import { readFileSync } from 'node:fs';
import type { Clock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { findCgroups } from '../jail/cgroup-paths.ts';
import { CgroupMemory } from '../observe/cgroup-memory.ts';
import type { HostMemoryEvents } from '../sandbox/memory-watch.ts';
import type { Launch } from '../vmm/launch.ts';

export class VmmMemory {
  readonly #clock: Clock;
  readonly #watched = new Map<number, CgroupMemory>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Null: it has no group of its own (there is no jail, or no group can be made here), or it has ended. */
  watch(vmmPid: number): HostMemoryEvents | null {
    const dir = memoryGroup(`${vmmPid}`);
    if (dir === undefined || dir === memoryGroup('self')) return null;
    const memory = new CgroupMemory(dir, this.#clock);
    this.#watched.set(vmmPid, memory);
    return memory;
  }

  /** Its VMMs' groups are looked at once more before they go: what the kernel has done to them is known then. */
  around(launch: Launch): Launch {
    return async (plan) => {
      const launched = await launch(plan);
      const release = async (): Promise<void> => {
        const pid = await launched.pid.catch((error: unknown) => {
          ignore(error, 'the start has told it');
          return 0;
        });
        this.#watched.get(pid)?.look();
        this.#watched.delete(pid);
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
