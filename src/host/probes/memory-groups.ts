/**
 * How much of the host's memory the control groups of this process leave it: the VMs' groups are below or beside its
 * own, and the limits of all groups above apply to them, too.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { tryOr } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import { type GroupRoom, readGroupRoom } from '../../machine/observe/memory-counters.ts';
import { memoryGroup } from './vmm-memory.ts';

const LIMITS = ['memory.max', 'memory.limit_in_bytes'] as const;

/** The group and its ancestors that can have a limit, nearest first. */
export function limitedGroups(group: string, exists: (path: string) => boolean = existsSync): readonly string[] {
  const dirs: string[] = [];
  for (let dir = group; dir !== dirname(dir); dir = dirname(dir)) {
    if (LIMITS.some((name) => exists(join(dir, name)))) dirs.push(dir);
  }
  return dirs;
}

export class MemoryGroups {
  readonly #dirs: readonly string[];
  readonly #read: (path: string) => string | null;

  constructor(
    dirs: readonly string[] = limitedGroups(memoryGroup('self') ?? '/'),
    read: (path: string) => string | null = readOrNull,
  ) {
    this.#dirs = dirs;
    this.#read = read;
  }

  /** The smallest limit in MiB; Infinity if there is none. It may change at any time. */
  limitMib(): number {
    return Math.min(...this.#rooms().map(({ limitBytes }) => limitBytes / MIB));
  }

  /** The minimum of what is left below each limit, MiB; Infinity without a limit. */
  availableMib(): number {
    return Math.min(...this.#rooms().map(({ availableBytes }) => availableBytes / MIB));
  }

  #rooms(): readonly GroupRoom[] {
    return this.#dirs.flatMap((dir) => readGroupRoom((name) => this.#read(join(dir, name))) ?? []);
  }
}

function readOrNull(path: string): string | null {
  return tryOr(null, 'the other version of control groups, or the group is gone', () => readFileSync(path, 'latin1'));
}
