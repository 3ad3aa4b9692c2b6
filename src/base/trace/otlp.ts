/**
 * Encodes spans for OTLP/HTTP in its JSON encoding: protobuf's JSON mapping of
 * opentelemetry/proto/collector/trace/v1/trace_service.proto, but ids are hex digits and enums numbers (OpenTelemetry
 * protocol, section "JSON Protobuf Encoding"). Pure.
 */
import type { Attributes, SpanKind, SpanRecord } from './trace.ts';

const KINDS: Readonly<Record<SpanKind, number>> = { internal: 1, server: 2, client: 3 };
const STATUS_ERROR = 2;
const SAMPLED = 1;

/** Body of a request to `/v1/traces`. @param resource the sender, for example `service.name` */
export function exportRequest(spans: readonly SpanRecord[], resource: Attributes): object {
  return {
    resourceSpans: [
      {
        resource: { attributes: keyValues(resource) },
        scopeSpans: [{ scope: { name: 'neurovisor' }, spans: spans.map(spanOf) }],
      },
    ],
  };
}

function spanOf(span: SpanRecord): object {
  const { name, kind, context, parentSpanId, startMs, endMs, attributes, error } = span;
  return {
    traceId: context.traceId,
    spanId: context.spanId,
    ...(parentSpanId === '' ? {} : { parentSpanId }),
    flags: SAMPLED,
    name,
    kind: KINDS[kind],
    startTimeUnixNano: nanoseconds(startMs),
    endTimeUnixNano: nanoseconds(endMs),
    attributes: keyValues(attributes),
    ...(error === null ? {} : { status: { code: STATUS_ERROR, message: error } }),
  };
}

/** As text, since a JSON number has 53 bits. */
function nanoseconds(ms: number): string {
  return `${BigInt(Math.round(ms * 1000)) * 1000n}`;
}

function keyValues(attributes: Attributes): readonly object[] {
  return Object.entries(attributes).flatMap(([key, value]) =>
    value === null || value === undefined ? [] : [{ key, value: anyValue(value) }],
  );
}

function anyValue(value: string | number | boolean): object {
  if (typeof value === 'string') return { stringValue: value };
  if (typeof value === 'boolean') return { boolValue: value };
  return Number.isSafeInteger(value) ? { intValue: `${value}` } : { doubleValue: value };
}
