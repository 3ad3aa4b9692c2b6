/** The public view of a sandbox. */
import type { GuestNetwork } from '../../base/request/guest-network.ts';
import type { GatewayUse } from '../../egress/net/lease/lease.ts';
import type { SandboxInfo } from '../contract/control.ts';
import { type EndCause, type EndEvidence, endInfo, NO_EVIDENCE, type SandboxEnd } from '../contract/ending.ts';
import { NO_MODEL_POLICY } from '../contract/model-policy.ts';
import { egressText, type NetworkSpec } from '../contract/network-spec.ts';
import { type LifetimePolicy, lifetimePolicyOf, type Provenance } from '../contract/request.ts';
import { type SandboxSpec, specInfo } from '../contract/spec.ts';
import type { SandboxRow, SandboxRowEnd } from '../store/sandbox-table.ts';
import type { StoredRequest } from './stored-request.ts';

interface CardInfo {
  readonly settings: GuestNetwork | undefined;
  readonly gatewayUse: GatewayUse | undefined;
}

export interface PresentState
  extends Pick<
    SandboxInfo,
    'status' | 'pausedTo' | 'pauseReason' | 'foreignPause' | 'endsAtMs' | 'timings' | 'readyMs'
  > {
  readonly accelerator: string;
  readonly end: SandboxEnd | null;
  /** Undefined without a VM. */
  readonly vm: { readonly card: CardInfo; readonly sharers: string | null } | undefined;
}

export function sandboxInfo(
  spec: SandboxSpec,
  policy: LifetimePolicy,
  provenance: Provenance,
  { vm, end, ...state }: PresentState,
): SandboxInfo {
  const { timeoutMs: _limit, ...shownPolicy } = policy;
  return {
    id: spec.id,
    ...state,
    ...shownPolicy,
    ...provenance,
    ...specInfo(spec),
    sharesMemory: vm === undefined ? null : vm.sharers !== null,
    network: networkInfo(spec.network, vm?.card),
    end: end && endInfo(end),
  };
}

function networkInfo(network: NetworkSpec | null, card: CardInfo | undefined): SandboxInfo['network'] {
  if (network === null) return null;
  const { policy, limits } = network;
  const address = card?.settings?.address ?? null;
  return { ...egressText(policy), limits, address, gatewayUse: card?.gatewayUse ?? null };
}

/** For rows of other versions. */
const UNKNOWN_SPEC = {
  id: '',
  cpus: 0,
  memoryMib: 0,
  diskMib: 0,
  diskLimits: {},
  models: NO_MODEL_POLICY,
  packages: null,
  secrets: [],
  volumes: [],
} as const;

/** The view of an ended sandbox from its row; another process may have held it. */
export function endedSandboxInfo(row: SandboxRow, stored: StoredRequest | null, accelerator: string): SandboxInfo {
  const { id, metadata, createdAtMs, parent, snapshot, end } = row;
  const policy = stored?.policy ?? lifetimePolicyOf({});
  const { name, onTimeout, idleTimeoutMs, autoResume, onMemoryPressure, annotations } = policy;
  return {
    id,
    name,
    status: 'ended',
    pausedTo: null,
    pauseReason: null,
    foreignPause: null,
    metadata,
    annotations,
    ...specInfo(stored?.spec ?? UNKNOWN_SPEC),
    origin: stored?.origin ?? 'boot',
    snapshot,
    template: stored?.template ?? null,
    parent,
    accelerator,
    sharesMemory: null,
    createdAtMs,
    endsAtMs: null,
    onTimeout,
    idleTimeoutMs,
    autoResume,
    onMemoryPressure,
    timings: null,
    readyMs: null,
    network: networkInfo(stored?.spec.network ?? null, undefined),
    end: end === null ? null : readEnd(end),
  };
}

function readEnd({ cause, detail, atMs, evidence }: SandboxRowEnd): SandboxInfo['end'] {
  // A row of an older version has less evidence. Only this program writes rows, so the cause is known.
  const known = { ...NO_EVIDENCE, ...(evidence as Partial<EndEvidence> | undefined) };
  return { cause: cause as EndCause, detail, atMs, evidence: known };
}
