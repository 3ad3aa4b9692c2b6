/**
 * Forwards spans of programs in a guest to the host's collector. They are decoded and encoded again, so only bounded
 * texts and numbers of a guest reach the collector, and only in traces that the sandbox was given.
 */
import type { Clock } from '../clock.ts';
import { TokenBucket } from '../token-bucket.ts';
import { decodeExport, type GuestSpan } from './otlp-decode.ts';
import type { SpanKind, SpanRecord, Tracer } from './trace.ts';

interface Taken {
  readonly accepted: number;
  readonly rejected: number;
}

/** Rate limit of one sandbox. */
const SPANS = { size: 1000, refillPerSecond: 100 } as const;
const KINDS: Readonly<Record<number, SpanKind>> = { 2: 'server', 3: 'client' };

export class GuestTraces {
  readonly #clock: Clock;
  readonly #tracer: Tracer;
  readonly #record: (span: SpanRecord) => boolean;
  readonly #buckets = new Map<string, TokenBucket>();

  /** @param record returns false if there is no room */
  constructor(clock: Clock, tracer: Tracer, record: (span: SpanRecord) => boolean) {
    this.#clock = clock;
    this.#tracer = tracer;
    this.#record = record;
  }

  /** @returns `null` if the body is not an OTLP request */
  take(sandboxId: string, body: Buffer): Taken | null {
    const decoded = decodeExport(body);
    if (decoded === null) return null;
    const accepted = decoded.spans.filter((span) => this.#takeOne(sandboxId, span)).length;
    return { accepted, rejected: decoded.spans.length + decoded.over - accepted };
  }

  /** Call when the sandbox is gone. */
  forget(sandboxId: string): void {
    this.#buckets.delete(sandboxId);
  }

  #takeOne(sandboxId: string, span: GuestSpan): boolean {
    const { traceId, spanId, parentSpanId, name, kind, startMs, endMs, error } = span;
    if (!this.#tracer.knows(sandboxId, traceId)) return false;
    const now = this.#clock.now();
    const bucket = this.#buckets.get(sandboxId) ?? new TokenBucket(SPANS, now);
    this.#buckets.set(sandboxId, bucket);
    if (!bucket.tryOpen(now)) return false;
    bucket.spend(1);
    return this.#record({
      name,
      parentSpanId,
      startMs,
      endMs,
      error,
      kind: KINDS[kind] ?? 'internal',
      context: { traceId, spanId, sampled: true },
      // Ours last, so that a guest can't pose as another.
      attributes: { ...span.attributes, 'neurovisor.sandbox.id': sandboxId, 'neurovisor.from': 'guest' },
    });
  }
}
