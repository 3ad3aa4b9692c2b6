/**
 * Limits the event loop time that one sandbox can take by work of its choice, such as parsing what it sends. All
 * sandboxes share the loop.
 *
 *     if (time.isOpen) time.run(() => parse(bytes)); else …  // do it in a thread, later, or not at all
 *
 * CPU time of this thread counts, so a busy machine does not use up the budget.
 */
import type { Clock } from '../clock.ts';
import { type BucketLimit, TokenBucket } from '../token-bucket.ts';

export class LoopTime {
  readonly #clock: Clock;
  readonly #cpuMs: () => number;
  readonly #bucket: TokenBucket;

  /** @param limit in milliseconds */
  constructor(limit: BucketLimit, clock: Clock, cpuMs: () => number = threadCpuMs) {
    this.#clock = clock;
    this.#cpuMs = cpuMs;
    this.#bucket = new TokenBucket(limit, clock.now());
  }

  /** False if the work so far has taken more than the limit. */
  get isOpen(): boolean {
    return this.#bucket.tryOpen(this.#clock.now());
  }

  /** Milliseconds until it is open again; 0 if it is open. */
  get waitMs(): number {
    return this.#bucket.waitMs(this.#clock.now());
  }

  /** Runs synchronous work and counts its time. */
  run<T>(work: () => T): T {
    const before = this.#cpuMs();
    try {
      return work();
    } finally {
      this.#bucket.spend(this.#cpuMs() - before);
    }
  }
}

/** Processor time of this thread so far, milliseconds. */
export function threadCpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}
