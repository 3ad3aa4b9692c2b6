/** Conditional requests and ranges (RFC 9110, sections 13 and 14) for a file whose only validator is its time. */
import type { IncomingHttpHeaders } from 'node:http';

export interface ByteRange {
  readonly offset: number;
  /** At least 1. */
  readonly length: number;
}

interface FileState {
  readonly bytes: number;
  readonly modifiedMs: number;
}

export function isUnchanged(headers: IncomingHttpHeaders, modifiedMs: number): boolean {
  const since = headers['if-modified-since'];
  if (since === undefined || headers['if-none-match'] !== undefined) return false;
  const sinceMs = Date.parse(since);
  return !Number.isNaN(sinceMs) && toSecond(modifiedMs) <= sinceMs;
}

/** `null` for the whole file, including for several or invalid ranges. */
export function rangeOf(
  headers: IncomingHttpHeaders,
  { bytes, modifiedMs }: FileState,
): ByteRange | 'unsatisfiable' | null {
  const [, first = '', last = ''] =
    /^bytes=(\d{0,15})-(\d{0,15})$/.exec(headers.range?.replaceAll(' ', '') ?? '') ?? [];
  if ((first === '' && last === '') || !isOfThisState(headers, modifiedMs)) return null;
  // Kernel files report size 0.
  if (bytes === 0) return null;
  if (first === '') {
    const length = Math.min(Number(last), bytes);
    return length === 0 ? 'unsatisfiable' : { offset: bytes - length, length };
  }
  const offset = Number(first);
  if (last !== '' && Number(last) < offset) return null;
  if (offset >= bytes) return 'unsatisfiable';
  const end = last === '' ? bytes - 1 : Math.min(Number(last), bytes - 1);
  return { offset, length: end - offset + 1 };
}

/** A range of another version would not fit the part that the client has. */
function isOfThisState(headers: IncomingHttpHeaders, modifiedMs: number): boolean {
  const condition = headers['if-range'];
  if (condition === undefined) return true;
  return typeof condition === 'string' && Date.parse(condition) === toSecond(modifiedMs);
}

const toSecond = (ms: number): number => Math.floor(ms / 1000) * 1000;
