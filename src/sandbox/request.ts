/** Judges what callers ask of a host of sandboxes, and reads back what was stored of it. */
import type { SandboxRow } from '../store/sandbox-table.ts';
import type { CreateRequest, SandboxChange, SandboxInfo } from './control.ts';
import { SandboxError } from './errors.ts';
import type { Terms } from './managed.ts';
import { LIMITS, type SandboxSpec } from './spec.ts';

export const FORKS_MAX = 64;
const METADATA_PAIRS_MAX = 32;
const METADATA_KEY_LENGTH_MAX = 64;
const METADATA_VALUE_LENGTH_MAX = 1024;
const QUEUE_TIMEOUT_MS_MAX = 3600 * 1000;
/** Shorter, and looking whether it is idle would keep it busy. */
const IDLE_TIMEOUT_MS_MIN = 1000;

/** The rest is judged by `makeSpec`. @throws SandboxError `spec_invalid` */
export function checkRequest(request: CreateRequest | SandboxChange): void {
  duration('timeoutMs', request.timeoutMs, 1, LIMITS.timeoutMsMax);
  duration('idleTimeoutMs', request.idleTimeoutMs, IDLE_TIMEOUT_MS_MIN, LIMITS.timeoutMsMax);
  if ('queueTimeoutMs' in request) {
    duration('queueTimeoutMs', request.queueTimeoutMs, 1, QUEUE_TIMEOUT_MS_MAX);
  }
  const pairs = Object.entries(request.metadata ?? {});
  if (pairs.length > METADATA_PAIRS_MAX) {
    throw invalid('metadata', `at most ${METADATA_PAIRS_MAX} pairs`);
  }
  for (const [key, value] of pairs) {
    if (key.length < 1 || key.length > METADATA_KEY_LENGTH_MAX) {
      throw invalid('metadata', `a key has 1 to ${METADATA_KEY_LENGTH_MAX} characters`);
    }
    if (value.length > METADATA_VALUE_LENGTH_MAX) {
      throw invalid('metadata', `a value has at most ${METADATA_VALUE_LENGTH_MAX} characters`);
    }
  }
}

export function termsOf(request: CreateRequest): Terms {
  return {
    timeoutMs: request.timeoutMs ?? null,
    onTimeout: request.onTimeout ?? 'kill',
    idleTimeoutMs: request.idleTimeoutMs ?? null,
    autoResume: request.autoResume ?? true,
    metadata: request.metadata ?? {},
  };
}

/** Written by `ManagedSandbox`; null: by another version, so it can't be resumed here. */
export function parseStored(row: SandboxRow): {
  readonly spec: SandboxSpec;
  readonly terms: Terms;
  readonly origin: SandboxInfo['origin'];
} | null {
  const stored = JSON.parse(row.requestJson) as {
    spec?: SandboxSpec;
    terms?: Omit<Terms, 'metadata'>;
    origin?: SandboxInfo['origin'];
  };
  const { spec, terms, origin } = stored;
  if (spec === undefined || terms === undefined || origin === undefined) return null;
  return { spec, terms: { ...terms, metadata: row.metadata }, origin };
}

function duration(field: string, value: number | null | undefined, min: number, max: number): void {
  if (value === undefined || value === null) return;
  const ok = Number.isSafeInteger(value) && value >= min && value <= max;
  if (!ok) throw invalid(field, `${value} is not a whole number from ${min} to ${max}`);
}

function invalid(field: string, why: string): SandboxError {
  return new SandboxError('spec_invalid', `sandbox option ${field}: ${why}`);
}
