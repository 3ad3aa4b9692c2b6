/** Memory events of VMMs on the host, from the control group that the jail makes for each VMM. */
import { readFileSync } from 'node:fs';
import type { Clock } from '../../base/clock.ts';
import { ignore, tryOr } from '../../base/ignore.ts';
import { findCgroups } from '../../machine/jail/cgroup-paths.ts';
import { CgroupMemory } from '../../machine/observe/cgroup-memory.ts';
import type { Launch } from '../../machine/vmm/launch.ts';
import type { HostMemoryEvents } from '../../sandbox/contract/memory-events.ts';
import { offerToOomKiller } from './oom-score.ts';

export class VmmMemory {
  readonly #clock: Clock;
  /** Keyed by the group's directory. */
  readonly #watched = new Map<string, CgroupMemory>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Watches a VMM from now on, and offers it to the host's OOM killer.
   * @returns `null` if it has no group of its own (no jail, or no control groups here), or has ended
   */
  watch(vmmPid: number): HostMemoryEvents | null {
    offerToOomKiller(vmmPid);
    const dir = memoryGroup(`${vmmPid}`);
    if (dir === undefined || dir === memoryGroup('self')) return null;
    const memory = new CgroupMemory(dir, this.#clock);
    this.#watched.set(dir, memory);
    return memory;
  }

  /** Reads the last events of groups that are about to be removed. Unwatched groups are ignored. */
  lastLook(groups: readonly string[]): void {
    for (const dir of groups) {
      this.#watched.get(dir)?.look();
      this.#watched.delete(dir);
    }
  }

  /** Wraps a launch so that the VMM's group is read before its removal. */
  around(launch: Launch): Launch {
    return async (plan) => {
      const launched = await launch(plan);
      const group = launched.pid.then(
        (pid) => memoryGroup(`${pid}`),
        (error: unknown) => ignore(error, 'the start reports it'),
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

/** The process's group in the `memory` controller, as this process sees it. @param pid a pid or `self` */
export function memoryGroup(pid: string): string | undefined {
  return tryOr(undefined, 'the process has ended', () => {
    const groups = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
    const { v1, v2 } = findCgroups(readFileSync('/proc/self/mountinfo', 'utf8'), groups);
    return v1.get('memory') ?? v2?.dir;
  });
}
