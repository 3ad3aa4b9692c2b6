/**
 * Watches the memory of a VMM's control group, v1 or v2 (I/O). While there are listeners it reads the files four times
 * a second: v1 reports a kill only by an eventfd, and a VMM takes longer than that to die.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { tryOr } from '../../base/ignore.ts';
import { Listeners } from '../../base/listeners.ts';
import {
  type CgroupMemoryEvent,
  type GroupMemory,
  MemoryJudge,
  type ReadFile,
  readGroupMemory,
  readSample,
} from './memory-counters.ts';

const POLL_MS = 250;

export class CgroupMemory {
  readonly #clock: Clock;
  readonly #read: ReadFile;
  readonly #judge = new MemoryJudge();
  readonly #listeners = new Listeners<CgroupMemoryEvent>();
  #oomKills = 0;
  #stopTimer: () => void = () => undefined;

  /** @param dir for example `/sys/fs/cgroup/neurovisor/x`; without other processes in it */
  constructor(dir: string, clock: Clock, read: ReadFile = (name) => readOrNull(join(dir, name))) {
    this.#clock = clock;
    this.#read = read;
  }

  /** Returns a function that stops it. The last stop reads once more, so the group must still exist. */
  listen(listener: (event: CgroupMemoryEvent) => void): () => void {
    const remove = this.#listeners.listen(listener);
    if (this.#listeners.size === 1) this.#poll();
    let isListening = true;
    return () => {
      if (!isListening) return;
      isListening = false;
      if (this.#listeners.size === 1) {
        this.#stopTimer();
        this.look();
      }
      remove();
    };
  }

  oomKills(): number {
    return this.#oomKills;
  }

  #poll(): void {
    this.look();
    this.#stopTimer = this.#clock.after(POLL_MS, () => this.#poll());
  }

  /** Reads at once, for example right before the group is removed. */
  look(): void {
    const sample = readSample(this.#read);
    // The group was removed; its earlier counts stay valid.
    if (sample === null) return;
    this.#oomKills = Math.max(this.#oomKills, sample.oomKills);
    for (const event of this.#judge.take(sample, this.#clock.now())) this.#listeners.emit(event);
  }
}

/** Current memory of such a group; `null` if it was removed. */
export function groupMemoryOf(dir: string): GroupMemory | null {
  return readGroupMemory((name) => readOrNull(join(dir, name)));
}

function readOrNull(path: string): string | null {
  return tryOr(null, 'another version of cgroups, or the group is gone', () => readFileSync(path, 'utf8'));
}
