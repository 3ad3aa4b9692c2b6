/**
 * Traces: one W3C trace id from a request to the first token (R-OBS-8). No globals: the composition root creates one
 * `Tracer`; code called within `run` finds its parent by `current`.
 *
 *     API ─► control plane ─► queue ─► VM ─► exec ── TRACEPARENT ─► guest ─► bridge ─► upstream
 *
 * Without an exporter nothing is recorded and no trace begins here, but a caller's trace is still forwarded. https://www.w3.org/TR/trace-context/
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Clock } from '../clock.ts';

export interface SpanContext {
  /** 32 hex digits. */
  readonly traceId: string;
  /** 16 hex digits. */
  readonly spanId: string;
  readonly sampled: boolean;
}

export type Attributes = Readonly<Record<string, string | number | boolean | null | undefined>>;
export type SpanKind = 'internal' | 'server' | 'client';

/** A finished span. Times in milliseconds since 1970, with a fraction. */
export interface SpanRecord {
  readonly name: string;
  readonly kind: SpanKind;
  readonly context: SpanContext;
  /** Empty for the root of its trace. */
  readonly parentSpanId: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes: Attributes;
  /** `null` without an error. */
  readonly error: string | null;
}

export interface Span {
  /** The context for children and other processes; `null` without a trace. */
  readonly context: SpanContext | null;
  set(attributes: Attributes): void;
  /** Adds a finished child span. @param fromMs, toMs on the monotonic clock */
  part(name: string, fromMs: number, toMs: number): void;
  /** Idempotent. */
  end(error?: unknown): void;
}

interface SpanOptions {
  readonly kind?: SpanKind;
  /** Default: the current span. `null`: no parent. */
  readonly parent?: SpanContext | null | undefined;
  readonly attributes?: Attributes;
  /** An earlier start, on the monotonic clock. Default: now. */
  readonly fromMs?: number;
}

interface TracerOptions {
  readonly clock: Clock;
  /** Returns this many random bytes as hex digits. */
  readonly randomHex: (bytes: number) => string;
  /** `null`: nothing is recorded. Must not throw. */
  readonly record: ((span: SpanRecord) => void) | null;
  /** The trace of this process: the parent if there is no nearer one. */
  readonly root?: SpanContext | null;
}

const TEXT_CHARACTERS_MAX = 256;
/** Traces remembered per sandbox: more than it has concurrent operations. */
const TRACES_PER_SANDBOX_MAX = 32;

export class Tracer {
  readonly #options: TracerOptions;
  readonly #current = new AsyncLocalStorage<SpanContext | null>();
  /** Traces of live sandboxes, the newest last. */
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

  /** Calls `work` within a span: everything that it starts, even later, is part of it. */
  run<T>(context: SpanContext | null, work: () => T): T {
    return this.#current.run(context, work);
  }

  /** Binds `work`, whenever it is called, to the current span. */
  bind<A extends readonly unknown[], T>(work: (...args: A) => T): (...args: A) => T {
    const context = this.current();
    return (...args) => this.run(context, () => work(...args));
  }

  start(name: string, options: SpanOptions = {}): Span {
    const { clock, randomHex, record } = this.#options;
    const { kind = 'internal', parent = this.current() } = options;
    if (record === null || parent?.sampled === false) return new PassedOn(parent);
    const context = { traceId: parent?.traceId ?? randomHex(16), spanId: randomHex(8), sampled: true };
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

  /** Runs `work` within a new span that ends with it. */
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

  /** From now on a sandbox's actions belong to this trace, unless it names another one that it was given. */
  note(sandboxId: string, context: SpanContext | null): void {
    if (context === null) return;
    const known = this.#bySandbox.get(sandboxId) ?? [];
    const others = known.filter(({ traceId }) => traceId !== context.traceId);
    this.#bySandbox.set(sandboxId, [...others.slice(1 - TRACES_PER_SANDBOX_MAX), context]);
  }

  /**
   * The trace of a guest's action.
   * @param said the guest's claim: accepted only for a trace that it was given, so that it can't write into others
   */
  parentOf(sandboxId: string, said: string | undefined): SpanContext | null {
    const known = this.#bySandbox.get(sandboxId) ?? [];
    const parsed = parseTraceparent(said);
    const isKnown = known.some(({ traceId }) => traceId === parsed?.traceId);
    if (parsed !== null && isKnown) return parsed;
    return known.at(-1) ?? null;
  }

  /** Whether the sandbox was given this trace and still has it. */
  knows(sandboxId: string, traceId: string): boolean {
    return this.#bySandbox.get(sandboxId)?.some((known) => known.traceId === traceId) ?? false;
  }

  /** Call when the sandbox is gone. */
  forget(sandboxId: string): void {
    this.#bySandbox.delete(sandboxId);
  }
}

/** The context of a trace that is not recorded here. */
class PassedOn implements Span {
  readonly context: SpanContext | null;

  constructor(context: SpanContext | null) {
    this.context = context;
  }

  set(): void {}

  part(): void {}

  end(): void {}
}

/** Parses `00-<32 hex>-<16 hex>-<2 hex>`, with the additions of later versions. @returns `null` if invalid */
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

/** Neither records nor begins traces. */
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
