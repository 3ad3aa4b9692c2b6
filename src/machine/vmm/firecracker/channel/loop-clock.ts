/** The clock of a thread that waits in epoll, so that Node's timers never run there. */
import { type Clock, systemClock } from '../../../../base/clock.ts';

interface Timer {
  readonly dueMs: number;
  readonly run: () => void;
}

export class LoopClock implements Clock {
  readonly #timers = new Set<Timer>();
  /** No timer is due earlier. */
  #nextMs = Number.POSITIVE_INFINITY;

  now(): number {
    return systemClock.now();
  }

  wall(): number {
    return systemClock.wall();
  }

  after(delayMs: number, run: () => void): () => void {
    const timer = { dueMs: this.now() + delayMs, run };
    this.#timers.add(timer);
    this.#nextMs = Math.min(this.#nextMs, timer.dueMs);
    return () => this.#timers.delete(timer);
  }

  /** Milliseconds until `runDue` may have something to do, rounded up; −1 without a timer. */
  waitMs(): number {
    if (this.#timers.size === 0) return -1;
    return Math.max(0, Math.ceil(this.#nextMs - this.now()));
  }

  runDue(): void {
    const nowMs = this.now();
    if (nowMs < this.#nextMs) return;
    const due: Timer[] = [];
    this.#nextMs = Number.POSITIVE_INFINITY;
    for (const timer of this.#timers) {
      if (timer.dueMs <= nowMs) due.push(timer);
      else this.#nextMs = Math.min(this.#nextMs, timer.dueMs);
    }
    due.sort((a, b) => a.dueMs - b.dueMs);
    // One timer may cancel another.
    for (const timer of due) if (this.#timers.delete(timer)) timer.run();
  }
}
