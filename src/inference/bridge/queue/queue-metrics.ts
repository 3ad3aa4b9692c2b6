/** Metrics of the queues in front of upstreams. */
import { Counter, gauge, Histogram, type Metric } from '../../../base/metrics.ts';
import { MODEL_PRIORITIES } from '../../../base/request/model-limits.ts';

/** Why a request left the queue without a turn. */
const DROP_REASONS = ['full', 'timeout', 'cancelled'] as const;
export type DropReason = (typeof DROP_REASONS)[number];

export class QueueMetrics {
  readonly #counts: () => { readonly waiting: number; readonly running: number };
  readonly #longestWaitMs: () => number;
  readonly #wait = new Histogram(
    'neurovisor_model_queue_wait_seconds',
    'Time that requests waited for an upstream’s slot.',
    ['priority'],
  );
  readonly #dropped = new Counter(
    'neurovisor_model_queue_dropped_total',
    'Requests that got no slot: full, timeout, cancelled.',
    ['priority', 'reason'],
  );

  constructor(counts: () => { readonly waiting: number; readonly running: number }, longestWaitMs: () => number) {
    this.#counts = counts;
    this.#longestWaitMs = longestWaitMs;
    // Creates all series at 0: Prometheus misses the first increase of a series that begins with it.
    for (const priority of MODEL_PRIORITIES) {
      for (const reason of DROP_REASONS) this.#dropped.add({ priority, reason }, 0);
    }
  }

  countWait(priority: string, waitMs: number): void {
    this.#wait.observe({ priority }, waitMs / 1000);
  }

  countDrop(priority: string, reason: DropReason): void {
    this.#dropped.add({ priority, reason });
  }

  list(): readonly Metric[] {
    return [
      this.#wait,
      this.#dropped,
      gauge(
        'neurovisor_model_queue_waiting',
        'Requests that wait for an upstream’s slot.',
        () => this.#counts().waiting,
      ),
      gauge('neurovisor_model_queue_running', 'Requests that have an upstream’s slot.', () => this.#counts().running),
      gauge(
        'neurovisor_model_queue_longest_wait_seconds',
        'Longest wait for an upstream’s slot so far; 0: none waits.',
        () => this.#longestWaitMs() / 1000,
      ),
    ];
  }
}
