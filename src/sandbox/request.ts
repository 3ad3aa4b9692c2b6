/** Judges what callers ask of a host of sandboxes, and reads back what was stored of it. */

import { ignore } from '../base/ignore.ts';
import type { SandboxRow, SandboxRowEnd } from '../store/sandbox-table.ts';
import type { CreateRequest, SandboxChange, SandboxInfo } from './control.ts';
import { type EndCause, type EndEvidence, NO_EVIDENCE } from './ending.ts';
import { SandboxError } from './errors.ts';
import { checkAction, type MemoryAction } from './memory/policy.ts';
import { LIMITS, type NetworkPolicy, type SandboxSpec, specInfo } from './spec.ts';
import type { NetworkCard } from './vm/network-card.ts';

/** What was asked for beside the VM itself. */
export interface Terms {
  readonly timeoutMs: number | null;
  readonly onTimeout: 'kill' | 'pause';
  readonly idleTimeoutMs: number | null;
  readonly autoResume: boolean;
  readonly onMemoryPressure: MemoryAction;
  readonly metadata: Readonly<Record<string, string>>;
}

/** What is changed without a VM. */
export type TermsChange = Omit<
  SandboxChange,
  'channelLimits' | 'diskLimits' | 'network' | 'secrets' | 'memoryMib'
>;

/** What is given replaces what was. */
export function changedTerms(terms: Terms, change: TermsChange): Terms {
  const given = Object.entries(change).filter(([, value]) => value !== undefined);
  return { ...terms, ...Object.fromEntries(given) };
}

export interface Birth {
  readonly origin: SandboxInfo['origin'];
  /** Id of the snapshot that it goes on from. */
  readonly snapshot: string | null;
  readonly parent: string | null;
  readonly createdAtMs: number;
}

export const FORKS_MAX = 64;
const METADATA_PAIRS_MAX = 32;
const METADATA_KEY_LENGTH_MAX = 64;
const METADATA_VALUE_LENGTH_MAX = 1024;
export const QUEUE_TIMEOUT_MS_MAX = 3600 * 1000;
/** Shorter, and looking whether it is idle would keep it busy. */
export const IDLE_TIMEOUT_MS_MIN = 1000;

/** The rest is judged by `makeSpec`. @param canGrow its memory has a maximum beyond what it has. @throws SandboxError `spec_invalid` */
export function checkRequest(request: CreateRequest | SandboxChange, canGrow = false): void {
  duration('timeoutMs', request.timeoutMs, 1, LIMITS.timeoutMsMax);
  duration('idleTimeoutMs', request.idleTimeoutMs, IDLE_TIMEOUT_MS_MIN, LIMITS.timeoutMsMax);
  if ('queueTimeoutMs' in request) {
    duration('queueTimeoutMs', request.queueTimeoutMs, 1, QUEUE_TIMEOUT_MS_MAX);
  }
  checkAction(request.onMemoryPressure, canGrow);
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
    onMemoryPressure: request.onMemoryPressure ?? 'warn',
    metadata: request.metadata ?? {},
  };
}

/** For the `requestJson` of its row. */
export function storedRequest(
  spec: SandboxSpec,
  { metadata: _metadata, ...terms }: Terms,
  origin: SandboxInfo['origin'],
): string {
  return JSON.stringify({ spec, terms, origin });
}

export interface Stored {
  readonly spec: SandboxSpec;
  readonly terms: Terms;
  readonly origin: SandboxInfo['origin'];
}

/** The reverse; null: another version wrote it, so it can't be resumed here. */
export function parseStored(row: Pick<SandboxRow, 'requestJson' | 'metadata'>): Stored | null {
  let stored: Partial<Stored> | null;
  try {
    stored = JSON.parse(row.requestJson) as Partial<Stored> | null;
  } catch (error) {
    ignore(error, 'a row of another version');
    return null;
  }
  const { spec, terms, origin } = stored ?? {};
  if (spec === undefined || terms === undefined || origin === undefined) return null;
  // A row of before there were networks, limits of them or of disks, or secrets has none.
  const { network = null, secrets = [], diskLimits = {} } = spec as Partial<SandboxSpec>;
  const limited = network && { ...network, limits: network.limits ?? {} };
  return {
    spec: { ...spec, network: limited, secrets, diskLimits },
    // A row of before there were actions has the default.
    terms: { ...termsOf({}), ...terms, metadata: row.metadata },
    origin,
  };
}

export function networkInfo(
  policy: NetworkPolicy | null,
  card: Pick<NetworkCard, 'settings' | 'gatewayUse'> | undefined,
): SandboxInfo['network'] {
  if (policy === null) return null;
  const { mode, allow, deny, limits } = policy;
  const address = card?.settings?.address ?? null;
  return { mode, allow, deny, limits, address, gatewayUse: card?.gatewayUse ?? null };
}

/** Of one that another version wrote nothing is known. */
const NOTHING_STORED = { cpus: 0, memoryMib: 0, diskMib: 0, diskLimits: {}, secrets: [] } as const;

/** Of its row; another process may have held it. */
export function infoOfEnded(row: SandboxRow, accelerator: string): SandboxInfo {
  const { id, metadata, createdAtMs, parent, snapshot, end } = row;
  const stored = parseStored(row);
  const { onTimeout, idleTimeoutMs, autoResume, onMemoryPressure } = stored?.terms ?? termsOf({});
  const network = networkInfo(stored?.spec.network ?? null, undefined);
  return {
    ...{
      id,
      status: 'ended',
      pausedTo: null,
      metadata,
      ...specInfo(stored?.spec ?? NOTHING_STORED),
    },
    ...{ origin: stored?.origin ?? 'boot', snapshot, parent, accelerator, createdAtMs },
    ...{ endsAtMs: null, onTimeout, idleTimeoutMs, autoResume, onMemoryPressure },
    ...{ timings: null, readyMs: null, network },
    // Only this program writes rows.
    end: end === null ? null : readEnd(end),
  };
}

function readEnd({ cause, detail, atMs, evidence }: SandboxRowEnd): SandboxInfo['end'] {
  // A row may be of an older version, which had less.
  const known = { ...NO_EVIDENCE, ...(evidence as Partial<EndEvidence> | undefined) };
  return { cause: cause as EndCause, detail, atMs, evidence: known };
}

function duration(field: string, value: number | null | undefined, min: number, max: number): void {
  if (value === undefined || value === null) return;
  const ok = Number.isSafeInteger(value) && value >= min && value <= max;
  if (!ok) throw invalid(field, `${value} is not a whole number from ${min} to ${max}`);
}

function invalid(field: string, why: string): SandboxError {
  return new SandboxError('spec_invalid', `sandbox option ${field}: ${why}`);
}
