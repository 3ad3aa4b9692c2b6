/**
 * Decodes a guest's spans: an OTLP/HTTP request in protobuf encoding (trace_service.proto,
 * `ExportTraceServiceRequest`), with limits. Reads only the fields that are exported again. Pure; never throws.
 */

import { type FieldBudget, numberOf, readFields, textOf } from './protobuf.ts';
import type { Attributes } from './trace.ts';

/** A span as received; nothing in it is trusted. */
export interface GuestSpan {
  /** 32 hex digits. */
  readonly traceId: string;
  /** 16 hex digits, as is `parentSpanId` unless empty. */
  readonly spanId: string;
  readonly parentSpanId: string;
  readonly name: string;
  readonly kind: number;
  /** Milliseconds since 1970. */
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes: Attributes;
  /** `null` without an error. */
  readonly error: string | null;
}

export const DECODE_LIMITS = {
  /** More spans are counted but not read. */
  spansMax: 512,
  attributesMax: 32,
  textCharactersMax: 256,
  /** Per request: 100 for each span. */
  fieldsMax: 51_200,
} as const;

const STATUS_ERROR = 2;

/** @returns `null` for another message. `over`: number of spans not read */
export function decodeExport(bytes: Buffer): { readonly spans: readonly GuestSpan[]; readonly over: number } | null {
  const budget = { left: DECODE_LIMITS.fieldsMax };
  const messages = nested([bytes], budget, 1, 2, 2);
  if (messages === null) return null;
  const read = messages.slice(0, DECODE_LIMITS.spansMax).map((one) => decodeSpan(one, budget));
  const spans = read.flatMap((span) => (span === null ? [] : [span]));
  if (spans.length < read.length) return null;
  return { spans, over: messages.length - read.length };
}

/** The messages below a path of field numbers. */
function nested(within: readonly Buffer[], budget: FieldBudget, ...path: readonly number[]): readonly Buffer[] | null {
  let found = within;
  for (const number of path) {
    const next: Buffer[] = [];
    for (const bytes of found) {
      const fields = readFields(bytes, budget);
      if (fields === null) return null;
      for (const field of fields) {
        if (field.number === number && Buffer.isBuffer(field.value)) next.push(field.value);
      }
    }
    found = next;
  }
  return found;
}

function decodeSpan(bytes: Buffer, budget: FieldBudget): GuestSpan | null {
  const fields = readFields(bytes, budget);
  if (fields === null) return null;
  const value = (number: number) => fields.findLast((field) => field.number === number)?.value;
  const traceId = hex(value(1), 16);
  const spanId = hex(value(2), 8);
  const startMs = milliseconds(value(7));
  const endMs = milliseconds(value(8));
  if (traceId === null || spanId === null) return null;
  const attributes = fields.filter(({ number }) => number === 9).slice(0, DECODE_LIMITS.attributesMax);
  return {
    traceId,
    spanId,
    startMs,
    endMs: Math.max(startMs, endMs),
    parentSpanId: hex(value(4), 8) ?? '',
    name: short(value(5)),
    kind: numberOf(value(6)),
    attributes: Object.fromEntries(attributes.flatMap(({ value: one }) => attribute(one, budget))),
    error: statusError(value(15), budget),
  };
}

type Value = Buffer | bigint | undefined;

function attribute(value: Value, budget: FieldBudget): [string, string | number | boolean][] {
  const fields = Buffer.isBuffer(value) ? readFields(value, budget) : null;
  const any = fields?.findLast(({ number }) => number === 2)?.value;
  const [scalar] = (Buffer.isBuffer(any) ? readFields(any, budget) : null) ?? [];
  const key = short(fields?.findLast(({ number }) => number === 1)?.value);
  if (scalar === undefined || key === '') return [];
  if (scalar.number === 1) return [[key, short(scalar.value)]];
  if (typeof scalar.value !== 'bigint') return [];
  if (scalar.number === 2) return [[key, scalar.value !== 0n]];
  if (scalar.number === 3) return [[key, Number(BigInt.asIntN(64, scalar.value))]];
  if (scalar.number === 4) return [[key, double(scalar.value)]];
  // Lists and maps can nest endlessly.
  return [];
}

function statusError(value: Value, budget: FieldBudget): string | null {
  const fields = Buffer.isBuffer(value) ? readFields(value, budget) : null;
  const code = fields?.findLast(({ number }) => number === 3)?.value;
  if (numberOf(code) !== STATUS_ERROR) return null;
  return short(fields?.findLast(({ number }) => number === 2)?.value);
}

function double(bits: bigint): number {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(bits);
  const value = bytes.readDoubleLE();
  return Number.isFinite(value) ? value : 0;
}

function milliseconds(ns: Value): number {
  return typeof ns === 'bigint' ? Number(ns / 1000n) / 1000 : 0;
}

function short(value: Value): string {
  return Buffer.isBuffer(value) ? textOf(value).slice(0, DECODE_LIMITS.textCharactersMax) : '';
}

/** `null` for a wrong length, or all zeros, which is not an id. */
function hex(value: Value, bytes: number): string | null {
  if (!Buffer.isBuffer(value) || value.length !== bytes) return null;
  return value.some((byte) => byte !== 0) ? value.toString('hex') : null;
}
