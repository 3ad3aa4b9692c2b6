/**
 * Traces: one W3C trace id from a request to the first token (R-OBS-8). No globals: the composition root makes
 * one `Tracer`; who is called within `run` finds its parent by `current`.
 *
 *     API ─► control plane ─► queue ─► VM ─► exec ── TRACEPARENT ─► guest ─► bridge ─► upstream
 *
 * Without an exporter nothing is recorded, and no trace begins here; one that a caller has begun is passed on
 * all the same. https://www.w3.org/TR/trace-context/
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Clock } from '../base/clock.ts';

export interface SpanContext {
  /** 32 hex digits. */
  readonly traceId: string;
  /** 16 hex digits. */
  readonly spanId: string;
  readonly sampled: boolean;
}

export type Attributes = Readonly<Record<string, string | number | boolean | null | undefined>>;
export type SpanKind = 'internal' | 'server' | 'client';

/** One that is over. Times in milliseconds since 1970, with a fraction. */
export interface SpanRecord {
  readonly name: string;
  readonly kind: SpanKind;
  readonly context: SpanContext;
  /** Empty: it is the first of its trace. */
  readonly parentSpanId: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes: Attributes;
  /** Null: it went well. */
  readonly error: string | null;
}

export interface Span {
  /** What its children and other processes are given; null: there is no trace. */
  readonly context: SpanContext | null;
  set(attributes: Attributes): void;
  /** A part of it that is over already. @param fromMs, toMs of the monotonic clock */
  part(name: string, fromMs: number, toMs: number): void;
  /** Idempotent. */
  end(error?: unknown): void;
}

interface SpanOptions {
  readonly kind?: SpanKind;
  /** Default: the one within which it is called. Null: it has none. */
  readonly parent?: SpanContext | null | undefined;
  readonly attributes?: Attributes;
  /** When it began, of the monotonic clock, if that is over; default: now. */
  readonly fromMs?: number;
}

interface TracerOptions {
  readonly clock: Clock;
  /** So many random bytes as hex digits. */
  readonly randomHex: (bytes: number) => string;
  /** Null: nothing is recorded. Must not throw. */
  readonly record: ((span: SpanRecord) => void) | null;
  /** The trace that this process is part of: the parent where there is none nearer. */
  readonly root?: SpanContext | null;
}

const TEXT_CHARACTERS_MAX = 256;
/** Traces that one sandbox is known to belong to: more than it has operations at once. */
const TRACES_PER_SANDBOX_MAX = 32;

export class Tracer {
  readonly #options: TracerOptions;
  readonly #current = new AsyncLocalStorage<SpanContext | null>();
  /** Of sandboxes that live; the newest last. */
  readonly #bySandbox = new Map<string, SpanContext[]>();
  readonly #anchorMs: number;

  constructor(options: TracerOptions) {
    this.#options = options;
    this.#anchorMs = options.clock.wall() - options.clock.now();
  }

  get isRecording(): boolean {
    return this.#options.record !== null;
  }

  current(): SpanContext | null {
    const store = this.#current.getStore();
    return store === undefined ? (this.#options.root ?? null) : store;
  }

  /** Calls `work` within a span: what it starts, also later, is part of that. */
  run<T>(context: SpanContext | null, work: () => T): T {
    return this.#current.run(context, work);
  }

  /** `work`, called later and by whomever, within the span of now. */
  bind<A extends readonly unknown[], T>(work: (...args: A) => T): (...args: A) => T {
    const context = this.current();
    return (...args) => this.run(context, () => work(...args));
  }

  start(name: string, options: SpanOptions = {}): Span {
    const { clock, randomHex, record } = this.#options;
    const { kind = 'internal', parent = this.current() } = options;
    if (record === null || parent?.sampled === false) return new PassedOn(parent);
    const context = {
      traceId: parent?.traceId ?? randomHex(16),
      spanId: randomHex(8),
      sampled: true,
    };
    const [startedMs, anchorMs] = [options.fromMs ?? clock.now(), this.#anchorMs];
    let attributes = options.attributes ?? {};
    let isOver = false;
    return {
      context,
      set: (more) => {
        attributes = { ...attributes, ...more };
      },
      part: (part, fromMs, toMs) => {
        record({
          name: part,
          kind: 'internal',
          attributes: {},
          error: null,
          context: { ...context, spanId: randomHex(8) },
          parentSpanId: context.spanId,
          startMs: anchorMs + fromMs,
          endMs: anchorMs + Math.max(fromMs, toMs),
        });
      },
      end: (error) => {
        if (isOver) return;
        isOver = true;
        record({
          name: name.slice(0, TEXT_CHARACTERS_MAX),
          kind,
          context,
          parentSpanId: parent?.spanId ?? '',
          startMs: anchorMs + startedMs,
          endMs: anchorMs + clock.now(),
          attributes: bounded(attributes),
          error: error === undefined ? null : textOf(error),
        });
      },
    };
  }

  /** Within a span of its own, that ends as `work` does. */
  async span<T>(name: string, options: SpanOptions, work: (span: Span) => Promise<T>): Promise<T> {
    const span = this.start(name, options);
    try {
      const result = await this.run(span.context, () => work(span));
      span.end();
      return result;
    } catch (error) {
      span.end(error);
      throw error;
    }
  }

  /** What a sandbox does from now on belongs to this trace, unless it says another one that it knows. */
  note(sandboxId: string, context: SpanContext | null): void {
    if (context === null) return;
    const known = this.#bySandbox.get(sandboxId) ?? [];
    const others = known.filter(({ traceId }) => traceId !== context.traceId);
    this.#bySandbox.set(sandboxId, [...others.slice(1 - TRACES_PER_SANDBOX_MAX), context]);
  }

  /**
   * Where something that a guest does belongs.
   * @param said by the guest: believed only if it is a trace that it was given, so that it can't write in others
   */
  parentOf(sandboxId: string, said: string | undefined): SpanContext | null {
    const known = this.#bySandbox.get(sandboxId) ?? [];
    const parsed = parseTraceparent(said);
    const isKnown = known.some(({ traceId }) => traceId === parsed?.traceId);
    if (parsed !== null && isKnown) return parsed;
    return known.at(-1) ?? null;
  }

  /** Whether the sandbox was given this trace, and has it still. */
  knows(sandboxId: string, traceId: string): boolean {
    return this.#bySandbox.get(sandboxId)?.some((known) => known.traceId === traceId) ?? false;
  }

  /** The sandbox is gone. */
  forget(sandboxId: string): void {
    this.#bySandbox.delete(sandboxId);
  }
}

/** Of a trace that nobody here records. */
class PassedOn implements Span {
  readonly context: SpanContext | null;

  constructor(context: SpanContext | null) {
    this.context = context;
  }

  set(): void {}

  part(): void {}

  end(): void {}
}

/** Never more than another version may add: `00-<32 hex>-<16 hex>-<2 hex>`. @returns null: it is none */
export function parseTraceparent(text: unknown): SpanContext | null {
  if (typeof text !== 'string') return null;
  const match = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(text);
  const [, version = 'ff', traceId = '', spanId = '', flags = '', rest] = match ?? [];
  if (version === 'ff' || (version === '00' && rest !== undefined)) return null;
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return null;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

export function formatTraceparent({ traceId, spanId, sampled }: SpanContext): string {
  return `00-${traceId}-${spanId}-${sampled ? '01' : '00'}`;
}

/** For a program in a guest (OpenTelemetry, "Environment Variables as Context Propagation Carriers"). */
export function traceEnv(context: SpanContext | null): Readonly<Record<string, string>> {
  if (context === null) return {};
  return { TRACEPARENT: formatTraceparent(context), NEUROVISOR_TRACE_ID: context.traceId };
}

const nothing = { now: () => 0, wall: () => 0, after: () => () => undefined };

/** Records nothing, begins nothing. */
export function passiveTracer(): Tracer {
  return new Tracer({ clock: nothing, randomHex: () => '', record: null });
}

function bounded(attributes: Attributes): Attributes {
  const short = Object.entries(attributes).map(([key, value]) => [
    key,
    typeof value === 'string' ? value.slice(0, TEXT_CHARACTERS_MAX) : value,
  ]);
  return Object.fromEntries(short) as Attributes;
}

function textOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).slice(0, TEXT_CHARACTERS_MAX);
}
