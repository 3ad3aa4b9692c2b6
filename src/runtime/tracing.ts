/** The tracer of this process: where spans go, and what they say of it. */
import { randomBytes } from 'node:crypto';
import { systemClock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import type { Metric } from '../base/metrics.ts';
import { Tracer } from '../base/trace.ts';
import type { Config } from '../config.ts';
import { spansMetric, TraceExporter } from '../observe/trace-exporter.ts';

export interface Tracing {
  readonly tracer: Tracer;
  readonly metrics: readonly Metric[];
  /** Sends what waits. */
  close(): Promise<void>;
}

const NONE = { exported: 0, dropped: 0, failed: 0 } as const;

/** Without an endpoint nothing is recorded; what callers trace is passed on all the same. */
export function openTracing({ traces }: Pick<Config, 'traces'>, log: Log): Tracing {
  const randomHex = (bytes: number): string => randomBytes(bytes).toString('hex');
  const base = { clock: systemClock, randomHex };
  if (traces === null) {
    const tracer = new Tracer({ ...base, record: null });
    return { tracer, metrics: [spansMetric(() => NONE)], close: () => Promise.resolve() };
  }
  const { url, headers, serviceName } = traces;
  const resource = { 'service.name': serviceName, 'process.pid': process.pid };
  const exporter = new TraceExporter({ url, headers, resource, clock: systemClock, log });
  const tracer = new Tracer({ ...base, record: (span) => exporter.record(span) });
  return { tracer, metrics: exporter.metrics(), close: () => exporter.close() };
}
