import { setTimeout as setTimeoutPromise } from 'node:timers/promises';

/** Time is injected everywhere; only this file and composition roots use the real clock. */
export interface Clock {
  /** Monotonic milliseconds with a fraction. */
  now(): number;
  /** Wall clock, milliseconds since 1970. */
  wall(): number;
  /** Calls `run` once after `delayMs`; the returned function cancels. Does not keep the process alive. */
  after(delayMs: number, run: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  after(delayMs, run) {
    const timer = setTimeout(run, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  },
};

/** Resolves after `delayMs`, or rejects with the signal's reason. Keeps the process alive. */
export async function sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
  // Node would reject with an error of its own, whose cause is the reason.
  await setTimeoutPromise(delayMs, undefined, { signal }).catch(() => signal?.throwIfAborted());
}

/** A clock that moves only by `advance`; for tests. */
export class FakeClock implements Clock {
  #nowMs = 0;
  readonly #startWallMs: number;
  readonly #timers = new Set<{ dueMs: number; run: () => void }>();

  constructor(startWallMs = 1_800_000_000_000) {
    this.#startWallMs = startWallMs;
  }

  now(): number {
    return this.#nowMs;
  }

  wall(): number {
    return this.#startWallMs + this.#nowMs;
  }

  after(delayMs: number, run: () => void): () => void {
    const timer = { dueMs: this.#nowMs + delayMs, run };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** Moves time forward and runs the timers that come due, in order. */
  advance(ms: number): void {
    const target = this.#nowMs + ms;
    for (;;) {
      let next: { dueMs: number; run: () => void } | undefined;
      for (const timer of this.#timers) {
        if (timer.dueMs <= target && (next === undefined || timer.dueMs < next.dueMs)) next = timer;
      }
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#nowMs = next.dueMs;
      next.run();
    }
    this.#nowMs = target;
  }
}
