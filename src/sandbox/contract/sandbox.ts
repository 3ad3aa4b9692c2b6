/** What callers see of a sandbox. Times of day are milliseconds since 1970, durations milliseconds. */
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import type { BudgetUse } from '../../base/request/model-limits.ts';
import type { GatewayUse } from '../../egress/net/lease/lease.ts';
import type { EndInfo } from './ending.ts';
import type { ImageInfo } from './environment.ts';
import type { ModelPolicy } from './model-policy.ts';
import type { EgressText, NetworkLimits } from './network-spec.ts';
import type { PackageInfo } from './packages.ts';
import type { StartTimings } from './parts.ts';
import type { MemoryAction, TimeoutAction } from './schema/request.ts';
import type { SecretInfo } from './secrets.ts';

export type { MemoryAction, TimeoutAction } from './schema/request.ts';

/**
 * `memory`: the CPUs stop. `disk`: the VM ends once its memory and disk are saved; open connections end.
 * `disk-only`: the same without the memory, so processes end, too; only `resume` boots it again.
 */
export type PauseTarget = 'memory' | 'disk' | 'disk-only';

/** Why a sandbox was paused without a request. */
export type PauseReason = 'timeout' | 'idle' | 'host-memory';

export type SandboxStatus =
  | 'starting'
  | 'running'
  /** The state is being saved; `running` or `paused` follows. */
  | 'saving'
  | 'paused'
  | 'resuming'
  | 'ending'
  | 'ended';

export interface SandboxInfo {
  /** `[a-z0-9]{20}`. */
  readonly id: string;
  readonly status: SandboxStatus;
  readonly pausedTo: PauseTarget | null;
  /** Of a paused sandbox; null: by request, or for its own disk or memory, as its events say. */
  readonly pauseReason: PauseReason | null;
  readonly cpus: number;
  /** Current size. */
  readonly memoryMib: number;
  /** The most it can grow to; null: the size is fixed. */
  readonly memoryMaxMib: number | null;
  readonly diskMib: number;
  /** Null: it runs in the built-in system. */
  readonly image: ImageInfo | null;
  readonly metadata: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly origin: 'pool' | 'clone' | 'boot' | 'snapshot' | 'fork';
  /** Id of the snapshot that it started from. */
  readonly snapshot: string | null;
  /** Name of the template that it was created from; null: the request named none. */
  readonly template: string | null;
  /** The sandbox that it is a fork of. */
  readonly parent: string | null;
  readonly accelerator: string;
  /** Its RAM is what it was started from, and only pages that it has changed are its own; null: there is no VM. */
  readonly sharesMemory: boolean | null;
  readonly createdAtMs: number;
  /** When the timeout ends; null: none, or the sandbox is paused. */
  readonly endsAtMs: number | null;
  readonly onTimeout: TimeoutAction;
  readonly idleTimeoutMs: number | null;
  readonly autoResume: boolean;
  readonly onMemoryPressure: MemoryAction;
  /** An absent limit means unlimited. */
  readonly diskLimits: DiskLimits;
  /** What it may ask a model. */
  readonly models: ModelPolicy;
  readonly modelUse: ModelUseInfo;
  /** Null: it may fetch no packages. */
  readonly packages: PackageInfo | null;
  /** Null: no network. */
  readonly network: NetworkInfo | null;
  /** Without values. */
  readonly secrets: readonly SecretInfo[];
  /** Of the last start; null during the first start, and for a member of a pool. */
  readonly timings: StartTimings | null;
  /** From the request until ready, queue included; null during the start. */
  readonly readyMs: number | null;
  /** Null: not ended. */
  readonly end: EndInfo | null;
}

/** The use of `models.budget`. */
export interface ModelUseInfo {
  /** Id of the sandbox whose budget it is: of a fork, that of the first original. */
  readonly account: string;
  /** By all that share the budget, in the window of the last use; null: nothing yet. */
  readonly used: BudgetUse | null;
}

export interface NetworkInfo extends EgressText {
  readonly limits: NetworkLimits;
  /** Requests that the gateway allowed and refused; null: no network card now. */
  readonly gatewayUse: GatewayUse | null;
  /** IPv4 address of the network card; null: no card now, since the sandbox is paused to disk or ended. */
  readonly address: string | null;
}
