/** `POST /otlp/v1/traces` from a guest: OTLP/HTTP in protobuf, the default of OpenTelemetry's SDKs. Pure. */
import type { IncomingHttpHeaders } from 'node:http';
import { accepted, type Checked, refused } from '../../base/http/refusal.ts';
import type { BucketLimit } from '../../base/token-bucket.ts';
import { MIB } from '../../base/units.ts';

/** The path in OTEL_EXPORTER_OTLP_TRACES_ENDPOINT of guest programs. */
export const TRACES_PATH = '/otlp/v1/traces';
/** A batch of 512 spans has about 200 KiB. */
const TRACES_BODY_BYTES_MAX = MIB;
/** Time on the event loop for reading one sandbox's traces, in milliseconds; beyond it, they get 429. */
export const TRACE_LOOP_TIME: BucketLimit = { size: 200, refillPerSecond: 50 };
const TYPE = 'application/x-protobuf';

/** @returns `null` if the body is not an OTLP message */
export type TakeTraces = (sandboxId: string, body: Buffer) => { readonly rejected: number } | null;

export function isTraces(method: string, url: string): boolean {
  return method === 'POST' && url === TRACES_PATH;
}

/**
 * Checks the request before its body is read.
 * @param hasTime false if the sandbox's share of the event loop is used up
 */
export function checkTraces(headers: IncomingHttpHeaders, hasTime: boolean): Checked<void> {
  if (headers['content-type'] !== TYPE) {
    return refused(415, 'media_type', `Traces must have the content type ${TYPE}.`);
  }
  if (hasTime) return accepted(undefined);
  const message = 'This sandbox sends traces faster than they can be read. Retry later.';
  return refused(429, 'too_many_traces', message, { retryAfterSeconds: 1 });
}

/**
 * Accepts the traces and returns the number of rejected spans (`ExportTraceServiceResponse`,
 * partial_success.rejected_spans).
 */
export function takenTraces(
  body: Buffer,
  sandboxId: string,
  take: TakeTraces,
): Checked<{ readonly headers: Readonly<Record<string, string>>; readonly body: Buffer }> {
  if (body.length > TRACES_BODY_BYTES_MAX) {
    const message = `The traces have more than ${TRACES_BODY_BYTES_MAX} bytes. Send smaller batches.`;
    return refused(413, 'body_too_large', message);
  }
  const taken = take(sandboxId, body);
  if (taken === null) return refused(400, 'bad_traces', 'The body is not an OTLP request.');
  const count = varint(taken.rejected);
  const partial = Buffer.from([0x08, ...count]);
  const answer = taken.rejected === 0 ? Buffer.alloc(0) : Buffer.from([0x0a, partial.length, ...partial]);
  return accepted({ headers: { 'content-type': TYPE, 'content-length': `${answer.length}` }, body: answer });
}

function varint(value: number): readonly number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)];
}
