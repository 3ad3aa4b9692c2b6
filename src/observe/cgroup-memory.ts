/**
 * Watches the memory of a control group that one VMM has for itself (io), v1 or v2. The files are read four
 * times a second while somebody listens: v1 tells of a kill by an eventfd alone, and a VMM that is being
 * killed lives longer than that.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { Listeners } from '../base/listeners.ts';
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

  /** @param dir e.g. `/sys/fs/cgroup/neurovisor/x`; with nobody else's processes in it */
  constructor(dir: string, clock: Clock, read: ReadFile = (name) => readOrNull(join(dir, name))) {
    this.#clock = clock;
    this.#read = read;
  }

  /** Returns how to stop. The last one that stops looks once more, so the group has to be there then. */
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

  /** Besides its turns, e.g. right before the group goes. */
  look(): void {
    const sample = readSample(this.#read);
    // It has gone; what it has counted before still holds.
    if (sample === null) return;
    this.#oomKills = Math.max(this.#oomKills, sample.oomKills);
    for (const event of this.#judge.take(sample, this.#clock.now())) this.#listeners.emit(event);
  }
}

/** Now, of a directory as `CgroupMemory` watches; null: it has gone. */
export function groupMemoryOf(dir: string): GroupMemory | null {
  return readGroupMemory((name) => readOrNull(join(dir, name)));
}

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    ignore(error, 'another version of cgroups, or the group has gone');
    return null;
  }
}
