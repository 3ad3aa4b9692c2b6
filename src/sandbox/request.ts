/** Checks what callers ask of a host of sandboxes; `makeSpec` checks the rest. */
import type { CreateRequest, MemoryAction, SandboxChange, SandboxInfo } from './control.ts';
import { SandboxError } from './errors.ts';
import { LIMITS } from './spec.ts';

/** The part of a request that concerns the sandbox over all its VMs. */
export interface LifetimePolicy {
  readonly timeoutMs: number | null;
  readonly onTimeout: 'kill' | 'pause';
  readonly idleTimeoutMs: number | null;
  readonly autoResume: boolean;
  readonly onMemoryPressure: MemoryAction;
  readonly metadata: Readonly<Record<string, string>>;
}

/** The changes that need no VM. */
export type LifetimeChange = Omit<
  SandboxChange,
  'channelLimits' | 'diskLimits' | 'network' | 'secrets' | 'memoryMib'
>;

/** Returns the policy with the fields of `change` that are set. */
export function changeLifetime(policy: LifetimePolicy, change: LifetimeChange): LifetimePolicy {
  const given = Object.entries(change).filter(([, value]) => value !== undefined);
  return { ...policy, ...Object.fromEntries(given) };
}

/** Where a sandbox comes from. */
export interface Provenance {
  readonly origin: SandboxInfo['origin'];
  /** Id of the snapshot that the sandbox was created from. */
  readonly snapshot: string | null;
  readonly parent: string | null;
  readonly createdAtMs: number;
}

export const FORKS_MAX = 64;
export const POOL_MEMBERS_MAX = 256;
const METADATA_PAIRS_MAX = 32;
const METADATA_KEY_LENGTH_MAX = 64;
const METADATA_VALUE_LENGTH_MAX = 1024;
const WEBHOOK_URL_CHARACTERS_MAX = 2048;
export const QUEUE_TIMEOUT_MS_MAX = 3600 * 1000;
/** With a shorter timeout the idle check itself would keep the sandbox busy. */
export const IDLE_TIMEOUT_MS_MIN = 1000;

/** @param canGrow the sandbox has a memory maximum. @throws SandboxError `spec_invalid` */
export function checkRequest(request: CreateRequest | SandboxChange, canGrow = false): void {
  duration('timeoutMs', request.timeoutMs, 1, LIMITS.timeoutMsMax);
  duration('idleTimeoutMs', request.idleTimeoutMs, IDLE_TIMEOUT_MS_MIN, LIMITS.timeoutMsMax);
  if ('queueTimeoutMs' in request) {
    duration('queueTimeoutMs', request.queueTimeoutMs, 1, QUEUE_TIMEOUT_MS_MAX);
  }
  checkMemoryAction(request.onMemoryPressure, canGrow);
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

export function lifetimePolicyOf(request: CreateRequest): LifetimePolicy {
  return {
    timeoutMs: request.timeoutMs ?? null,
    onTimeout: request.onTimeout ?? 'kill',
    idleTimeoutMs: request.idleTimeoutMs ?? null,
    autoResume: request.autoResume ?? true,
    onMemoryPressure: request.onMemoryPressure ?? 'warn',
    metadata: request.metadata ?? {},
  };
}

/** @param canGrow the sandbox has a memory maximum. @throws SandboxError `spec_invalid` */
export function checkMemoryAction(action: string | undefined, canGrow = false): void {
  if (action === undefined || ['warn', 'pause', 'snapshot'].includes(action)) return;
  if (action === 'grow') {
    if (canGrow) return;
    throw new SandboxError(
      'spec_invalid',
      'sandbox option onMemoryPressure: grow needs a sandbox with a maximum beyond its memory',
      { remedy: 'create the sandbox with --memory-max (memoryMaxMib)' },
    );
  }
  const url = action.length <= WEBHOOK_URL_CHARACTERS_MAX ? URL.parse(action) : null;
  const isWeb = url !== null && ['http:', 'https:'].includes(url.protocol);
  if (isWeb && url.username === '' && url.password === '') return;
  throw new SandboxError(
    'spec_invalid',
    'sandbox option onMemoryPressure: use warn, grow, pause, snapshot or an http(s) URL without a password',
  );
}

function duration(field: string, value: number | null | undefined, min: number, max: number): void {
  if (value === undefined || value === null) return;
  const ok = Number.isSafeInteger(value) && value >= min && value <= max;
  if (!ok) throw invalid(field, `${value} is not a whole number from ${min} to ${max}`);
}

function invalid(field: string, why: string): SandboxError {
  return new SandboxError('spec_invalid', `sandbox option ${field}: ${why}`);
}
