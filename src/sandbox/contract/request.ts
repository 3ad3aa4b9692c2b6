/** Validates requests to a host of sandboxes; `makeSpec` validates the rest. */
import type { CreateRequest, MemoryAction, SandboxChange, SandboxInfo, TimeoutAction } from './control.ts';
import { SandboxError } from './errors.ts';
import { REQUEST_LIMITS } from './limits.ts';
import { parse } from './schema/parse.ts';
import { lifetimeFields } from './schema/request.ts';

/** The part of a request that outlives the individual VMs of the sandbox. */
export interface LifetimePolicy {
  readonly name: string | null;
  readonly timeoutMs: number | null;
  readonly onTimeout: TimeoutAction;
  readonly idleTimeoutMs: number | null;
  readonly autoResume: boolean;
  readonly onMemoryPressure: MemoryAction;
  readonly metadata: Readonly<Record<string, string>>;
  /** Set by the interface that created the sandbox: `CreateRequest.annotations`. */
  readonly annotations: Readonly<Record<string, string>>;
}

/** The annotation of a sandbox that ends with a connection of its client, so that no other process takes it over. */
export const SESSION_ANNOTATION = 'session';

export type LifetimeChange = Omit<
  SandboxChange,
  'channelLimits' | 'diskLimits' | 'network' | 'secrets' | 'requestHeaders' | 'memoryMib'
>;

export function changeLifetime(policy: LifetimePolicy, change: LifetimeChange): LifetimePolicy {
  const given = Object.entries(change).filter(([, value]) => value !== undefined);
  // Each interface replaces only its own annotations.
  const annotations = { ...policy.annotations, ...change.annotations };
  return { ...policy, ...Object.fromEntries(given), annotations };
}

export interface Provenance {
  readonly origin: SandboxInfo['origin'];
  /** Id of the snapshot that the sandbox was created from. */
  readonly snapshot: string | null;
  /** Name of the template in the request. */
  readonly template: string | null;
  readonly parent: string | null;
  readonly createdAtMs: number;
}

/** @param canGrow the sandbox has a memory maximum. @throws SandboxError `spec_invalid` */
export function checkRequest(request: CreateRequest | SandboxChange, canGrow = false): void {
  const { onMemoryPressure } = parse(lifetimeFields, request);
  checkMemoryAction(onMemoryPressure, canGrow);
}

export function lifetimePolicyOf(request: CreateRequest): LifetimePolicy {
  return {
    name: request.name ?? null,
    timeoutMs: request.timeoutMs ?? null,
    onTimeout: request.onTimeout ?? 'kill',
    idleTimeoutMs: request.idleTimeoutMs ?? null,
    autoResume: request.autoResume ?? true,
    onMemoryPressure: request.onMemoryPressure ?? 'warn',
    metadata: request.metadata ?? {},
    annotations: request.annotations ?? {},
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
  const url = action.length <= REQUEST_LIMITS.webhookUrlCharactersMax ? URL.parse(action) : null;
  const isWeb = url !== null && ['http:', 'https:'].includes(url.protocol);
  if (isWeb && url.username === '' && url.password === '') return;
  throw new SandboxError(
    'spec_invalid',
    'sandbox option onMemoryPressure: use warn, grow, pause, snapshot or an http(s) URL without a password',
  );
}
