/**
 * Polls files for changes (I/O). A change is reported once it has lasted from one poll to the next, so that a file is
 * not read while an editor writes it; and again with each poll until it is accepted.
 */
import { statSync } from 'node:fs';
import type { Clock } from '../../../base/clock.ts';

const LOOK_EVERY_MS = 1_000;

export class FileWatch {
  readonly #clock: Clock;
  readonly #onChange: () => boolean;
  #paths: readonly string[];
  #taken: string | null;
  #last: string;
  #stop: () => void;

  /** @param onChange returns whether it accepted the change */
  constructor(paths: readonly string[], clock: Clock, onChange: () => boolean) {
    this.#clock = clock;
    this.#onChange = onChange;
    this.#paths = paths;
    this.#taken = stateOf(paths);
    this.#last = this.#taken;
    this.#stop = clock.after(LOOK_EVERY_MS, () => this.#look());
  }

  /** Watches these paths from now on. */
  replace(paths: readonly string[]): void {
    this.#paths = paths;
    this.#taken = stateOf(paths);
    this.#last = this.#taken;
  }

  close(): void {
    this.#stop();
  }

  #look(): void {
    const state = stateOf(this.#paths);
    const isChanged = state === this.#last && state !== this.#taken;
    this.#last = state;
    this.#stop = this.#clock.after(LOOK_EVERY_MS, () => this.#look());
    if (!isChanged) return;
    // The callback may `replace` the paths.
    this.#taken = state;
    if (!this.#onChange()) this.#taken = null;
  }
}

function stateOf(paths: readonly string[]): string {
  const states = paths.map((path) => {
    try {
      const { ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
      return [ino, size, mtimeNs, ctimeNs].join(' ');
    } catch {
      return 'missing';
    }
  });
  return states.join('\n');
}
