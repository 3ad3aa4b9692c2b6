/** The tracer of this process and its exporter. */
import { randomBytes } from 'node:crypto';
import { systemClock } from '../../base/clock.ts';
import type { Config } from '../../base/config.ts';
import type { Log } from '../../base/log.ts';
import type { Metric } from '../../base/metrics.ts';
import { spansMetric, TraceExporter } from '../../base/trace/exporter.ts';
import { GuestTraces } from '../../base/trace/guest-traces.ts';
import { parseTraceparent, type SpanRecord, Tracer } from '../../base/trace/trace.ts';

export interface Tracing {
  readonly tracer: Tracer;
  readonly metrics: readonly Metric[];
  /** Receives spans of programs in guests; `null` if tracing is off. */
  readonly guests: GuestTraces | null;
  close(): Promise<void>;
}

const NONE = { exported: 0, dropped: 0, failed: 0 } as const;

/** Without an endpoint nothing is recorded, but callers' trace contexts are still passed on. */
export function openTracing({ traces, traceparent }: Pick<Config, 'traces' | 'traceparent'>, log: Log): Tracing {
  const randomHex = (bytes: number): string => randomBytes(bytes).toString('hex');
  const base = { clock: systemClock, randomHex, root: parseTraceparent(traceparent) };
  if (traces === null) {
    const tracer = new Tracer({ ...base, record: null });
    const metrics = [spansMetric(() => NONE)];
    return { tracer, metrics, guests: null, close: () => Promise.resolve() };
  }
  const { url, headers, serviceName } = traces;
  const resource = { 'service.name': serviceName, 'process.pid': process.pid };
  const exporter = new TraceExporter({ url, headers, resource, clock: systemClock, log });
  const tracer = new Tracer({ ...base, record: (span) => exporter.record(span) });
  const record = (span: SpanRecord): boolean => exporter.recordOfGuest(span);
  const guests = new GuestTraces(systemClock, tracer, record);
  return { tracer, guests, metrics: exporter.metrics(), close: () => exporter.close() };
}

/** Environment variables for OpenTelemetry SDKs of programs in a guest. */
export const GUEST_TRACES_ENV = {
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://127.0.0.1:11434/otlp/v1/traces',
  OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: 'http/protobuf',
} as const;
