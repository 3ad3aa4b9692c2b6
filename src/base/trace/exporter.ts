/**
 * Sends spans to a collector by OTLP/HTTP (I/O). Spans without room are dropped and counted: nothing waits for the
 * collector, and an unreachable one costs a request every few seconds.
 */
import type { Clock } from '../clock.ts';
import { describeError } from '../errors.ts';
import type { Log } from '../log.ts';
import { type Metric, totalBy } from '../metrics.ts';
import { exportRequest } from './otlp.ts';
import type { Attributes, SpanRecord } from './trace.ts';

interface TraceExporterOptions {
  /** The full URL, with `/v1/traces`. */
  readonly url: string;
  /** Sent with each request, for example a key. */
  readonly headers: Readonly<Record<string, string>>;
  readonly resource: Attributes;
  readonly clock: Clock;
  readonly log: Log;
}

export const TRACE_LIMITS = {
  /** Maximum waiting spans; more are dropped. */
  queueMax: 4096,
  batchMax: 512,
  /** Time from the first waiting span to the request. */
  delayMs: 2000,
  requestMsMax: 5000,
  /** Time between two log lines. */
  quietMs: 60_000,
} as const;

export class TraceExporter {
  readonly #options: TraceExporterOptions;
  readonly #queue: SpanRecord[] = [];
  readonly #counts = { exported: 0, dropped: 0, failed: 0 };
  #stopTimer: (() => void) | undefined;
  #sending: Promise<void> | undefined;
  #toldAtMs = Number.NEGATIVE_INFINITY;
  #isClosed = false;

  constructor(options: TraceExporterOptions) {
    this.#options = options;
  }

  /** Never throws, never waits. */
  record(span: SpanRecord): void {
    if (this.#isClosed || this.#queue.length >= TRACE_LIMITS.queueMax) {
      this.#counts.dropped += 1;
      return;
    }
    this.#queue.push(span);
    if (this.#queue.length >= TRACE_LIMITS.batchMax) this.#send();
    this.#stopTimer ??= this.#options.clock.after(TRACE_LIMITS.delayMs, () => {
      this.#stopTimer = undefined;
      this.#send();
    });
  }

  /** Guests together get half of the queue, so that the host keeps the rest. @returns whether there was room */
  recordOfGuest(span: SpanRecord): boolean {
    const isRoom = this.#queue.length < TRACE_LIMITS.queueMax / 2 && !this.#isClosed;
    if (isRoom) this.record(span);
    else this.#counts.dropped += 1;
    return isRoom;
  }

  metrics(): readonly Metric[] {
    return [spansMetric(() => this.#counts)];
  }

  /** Sends the waiting spans once. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#stopTimer?.();
    this.#send();
    await this.#sending;
    this.#counts.dropped += this.#queue.splice(0).length;
  }

  /** One request at a time; with a slow collector the queue fills and drops. */
  #send(): void {
    if (this.#sending !== undefined || this.#queue.length === 0) return;
    this.#sending = this.#sendAll().finally(() => {
      this.#sending = undefined;
    });
  }

  async #sendAll(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue.splice(0, TRACE_LIMITS.batchMax);
      try {
        await this.#post(batch);
        this.#counts.exported += batch.length;
      } catch (error) {
        this.#counts.failed += batch.length;
        this.#tell(error);
        return;
      }
    }
  }

  async #post(batch: readonly SpanRecord[]): Promise<void> {
    const { url, headers, resource } = this.#options;
    const response = await fetch(url, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify(exportRequest(batch, resource)),
      redirect: 'error',
      signal: AbortSignal.timeout(TRACE_LIMITS.requestMsMax),
    });
    // Read only so that the connection can be reused.
    await response.body?.cancel();
    if (!response.ok) throw new Error(`the collector answered with status ${response.status}`);
  }

  #tell(error: unknown): void {
    const { clock, log } = this.#options;
    if (clock.now() - this.#toldAtMs < TRACE_LIMITS.quietMs) return;
    this.#toldAtMs = clock.now();
    log.warn('could not send traces to the collector', { error: describeError(error) });
  }
}

/** Exists even without an exporter, so that the metric is always there. */
export function spansMetric(
  counts: () => { readonly exported: number; readonly dropped: number; readonly failed: number },
): Metric {
  return totalBy(
    'neurovisor_trace_spans_total',
    'Spans that a collector took (exported) or not (failed), or without room (dropped).',
    ['result'],
    () => Object.entries(counts()).map(([result, count]) => [{ result }, count]),
  );
}
