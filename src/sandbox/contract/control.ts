/**
 * The interface of a host of sandboxes. CLI, library and REST server do not know where the sandboxes are.
 *
 *     CLI, library ──► ControlPlane ◄── implemented by  control-plane.ts  (in this process)
 *                                                       src/api/client        (a daemon, over HTTP)
 *
 * Types only. Times of day are milliseconds since 1970, durations milliseconds.
 */
import type { Duplex } from 'node:stream';
import type { ChannelLimits, ChannelStats } from '../../base/channel.ts';
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import type { BudgetUse, SharedBudget } from '../../base/request/model-limits.ts';
import type { GatewayUse } from '../../egress/net/lease/lease.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import type { Guest } from '../../machine/guest/guest.ts';
import type { EndInfo, SandboxLogs } from './ending.ts';
import type { ImageInfo } from './environment.ts';

import type { TimedEvent } from './events.ts';
import type { PackageInfo, PackageOptions } from './packages.ts';
import type { StartTimings } from './parts.ts';
import type { RequestHeaderOptions, SecretInfo, SecretOptions } from './secrets.ts';
import type {
  EgressText,
  ModelPolicy,
  NetworkLimits,
  NetworkOptions,
  SandboxOptions,
  TemplateRequest,
  TemplateSpec,
} from './spec.ts';

export interface ControlPlane {
  host(): Promise<HostInfo>;
  /**
   * Resolves when the sandbox is ready.
   * @throws SandboxError `spec_invalid`, `not_found` (snapshot), `snapshot_damaged`, `start_failed`, `cancelled`
   * @throws BusyError the queue is full, or the request timed out in it
   */
  create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo>;
  /** Newest first, without ended sandboxes unless the filter names them. */
  list(filter?: SandboxFilter): Promise<readonly SandboxInfo[]>;
  /**
   * An ended sandbox stays readable for a while, with its end.
   * @throws SandboxError `not_found`, as all methods below
   */
  get(id: string): Promise<SandboxInfo>;
  /** Changes the given fields: all of them, or none. */
  update(id: string, change: SandboxChange): Promise<SandboxInfo>;
  /** Ends the sandbox, whatever its state. Resolves when everything is released. */
  remove(id: string): Promise<SandboxInfo>;
  /** @throws SandboxError `not_ready`: the sandbox is neither running nor paused in memory */
  pause(id: string, to: PauseTarget): Promise<SandboxInfo>;
  /**
   * Keeps id and files, and processes unless it was paused to its disk only. Does nothing for a running sandbox; two
   * calls at once are one.
   */
  resume(id: string, options?: ResumeOptions): Promise<SandboxInfo>;
  /**
   * Saves a running or paused sandbox, which then continues. Open connections to it end.
   * @throws SandboxError `not_ready`, `name_taken`, `snapshot_failed`, `disk_full`
   */
  snapshot(id: string, options?: SnapshotOptions): Promise<SnapshotInfo>;
  /** Copies a running or paused sandbox. Each copy has its own identity and its own result. */
  fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]>;
  snapshots(): Promise<readonly SnapshotInfo[]>;
  /** Does not affect sandboxes that were created from the snapshot. */
  removeSnapshot(idOrName: string): Promise<void>;
  pools(): Promise<readonly PoolInfo[]>;
  /**
   * Sets the pool of the template that `members` names (default: the default template), and builds that if missing.
   * Replaces the pool that the same name had before its template was built anew.
   */
  setPool(limits: PoolLimits, members?: PoolMembers): Promise<PoolInfo>;
  /**
   * The guest's operations. Resumes a paused sandbox first if it has `autoResume`.
   * @throws SandboxError `not_ready`
   */
  guest(id: string): Promise<Guest>;
  /**
   * A connection to the agent's operations port, for a caller that speaks the guest protocol itself: the
   * guest's `OK <n>` comes first, and a request may be written at once. Half-closes are forwarded both
   * ways. Counts as traffic. Resumes as `guest` does.
   * @throws SandboxError `not_ready`
   */
  openOperation(id: string): Promise<Duplex>;
  /**
   * A TCP connection to a port of the guest, through its network card. Half-closes are forwarded both ways;
   * the connection ends with the card. Resumes as `guest` does.
   * @throws SandboxError `not_ready`, `network_unavailable`: no network card; `port_unreachable`
   */
  openPort(id: string, port: number, signal?: AbortSignal): Promise<Duplex>;
  channelStats(id: string): Promise<ChannelStats>;
  /** The last 256 requests to the model, oldest first. */
  usage(id: string): Promise<readonly UsageRecord[]>;
  /**
   * The serial console and the VMM's log. Kept after the end for the newest 200 sandboxes, except those that
   * were removed.
   */
  logs(id: string): Promise<SandboxLogs>;
  /** The logs of all VMs of the sandbox, then new text until it ends or `signal` aborts. */
  followLogs(id: string, signal: AbortSignal): AsyncIterable<LogChunk>;
  /**
   * Events of memory and disk, the actions taken, and last the end. First the 256 kept events, then new ones.
   */
  events(id: string, options?: EventsOptions): AsyncIterable<TimedEvent>;
  /** Calls `listener` at each change of a sandbox. Returns the function that stops it. */
  onChange(listener: (info: SandboxInfo) => void): () => void;
}

/** A piece of the console or of the VMM's log. */
export interface LogChunk {
  readonly source: keyof SandboxLogs;
  readonly text: string;
  /** Bytes before this piece that were lost because the reader was too slow. */
  readonly skippedBytes: number;
}

export interface EventsOptions {
  /** Sequence number of the last known event. Default 0: all kept events. */
  readonly after?: number | undefined;
  /** False: only the kept events. Default true. */
  readonly follow?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * `memory`: the CPUs stop. `disk`: the VM ends once its memory and disk are saved; open connections end.
 * `disk-only`: the same without the memory, so processes end, too; only `resume` boots it again.
 */
export type PauseTarget = 'memory' | 'disk' | 'disk-only';

/** Why a sandbox was paused that nobody asked to pause. */
export type PauseReason = 'timeout' | 'idle' | 'host-memory';

/** `pause`: to disk. */
export type TimeoutAction = 'kill' | 'pause' | 'pause-disk-only';

export interface ResumeOptions {
  readonly signal?: AbortSignal | undefined;
  /** Boots from the disk, as after a pause `disk-only`: a saved memory is dropped. */
  readonly reboot?: boolean | undefined;
}

export interface SnapshotOptions {
  readonly name?: string;
  /** Without the memory: sandboxes boot from it. */
  readonly diskOnly?: boolean;
}

export type SandboxStatus =
  | 'starting'
  | 'running'
  /** The state is being saved; `running` or `paused` follows. */
  | 'saving'
  | 'paused'
  | 'resuming'
  | 'ending'
  | 'ended';

/** The action when a sandbox is close to OOM (`memory/policy.ts`). A URL receives the event. */
export type MemoryAction = 'warn' | 'grow' | 'pause' | 'snapshot' | `http://${string}` | `https://${string}`;

export interface CreateRequest extends SandboxOptions {
  /** Id or name of a snapshot to start from; CPUs, memory, disk, warm list and image are then the snapshot's. */
  readonly snapshot?: string | undefined;
  /**
   * Name of the template to start from, built again if it is out of date. CPUs, memory, disk, warm list and packages are
   * the template's: other values are refused.
   */
  readonly template?: string | undefined;
  /** Free pairs of the owner; keys ≤ 64, values ≤ 1024 characters, 32 pairs. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** What the interface that creates the sandbox keeps with it; no user sets them. Kept by forks and snapshots. */
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  /** The action at the timeout. Default `kill`. */
  readonly onTimeout?: TimeoutAction | undefined;
  /** Pause to disk after this time without an open operation, a model request or traffic. Default: never. */
  readonly idleTimeoutMs?: number | null | undefined;
  /** An operation resumes the paused sandbox, unless it was paused to its disk only. Default: true. */
  readonly autoResume?: boolean | undefined;
  /** The action close to OOM, at the memory maximum if there is one. Default `warn`. */
  readonly onMemoryPressure?: MemoryAction | undefined;
  /** Boot, even if a template or pool would be faster. */
  readonly boot?: boolean | undefined;
  /** Time limit in the start queue. Default 60 s. */
  readonly queueTimeoutMs?: number | undefined;
}

export interface SandboxChange {
  /** Restarts the timeout now; null: none. */
  readonly timeoutMs?: number | null | undefined;
  readonly onTimeout?: TimeoutAction | undefined;
  readonly idleTimeoutMs?: number | null | undefined;
  readonly autoResume?: boolean | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Replaces the values of these keys; other annotations stay. */
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly onMemoryPressure?: MemoryAction | undefined;
  /**
   * New memory size, MiB, up to the maximum. Shrinks only by what the programs leave free. Resumes as `guest`
   * does.
   */
  readonly memoryMib?: number | undefined;
  /** Replaces the budget, of all sandboxes that share it; what was used of it stays used. */
  readonly models?: Pick<ModelPolicy, 'budget'> | undefined;
  /** Replaces all limits; an absent direction is unlimited. Resumes as `guest` does. */
  readonly channelLimits?: ChannelLimits | undefined;
  /** Replaces all limits; an absent one is unlimited. Resumes as `guest` does. */
  readonly diskLimits?: DiskLimits | undefined;
  /**
   * Effective at once; closes connections that are now forbidden. Plugs or unplugs the network card as needed;
   * null: no card. Resumes as `guest` does.
   */
  readonly network?: NetworkOptions | null | undefined;
  /**
   * Replaces the package policy, for requests that arrive from now on; null: no packages. Resumes as `guest` does.
   */
  readonly packages?: PackageOptions | null | undefined;
  /**
   * Replaces all secrets; one of the same name keeps its placeholder. Resumes as `guest` does, but a sandbox
   * that is paused to disk stays there: it may need the values to be resumed.
   */
  readonly secrets?: readonly SecretOptions[] | undefined;
  /** Replaces all header fields that the gateway sets, as `secrets` does. */
  readonly requestHeaders?: readonly RequestHeaderOptions[] | undefined;
}

export interface SandboxFilter {
  readonly status?: readonly SandboxStatus[] | undefined;
  /** All pairs must match. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

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

export interface ForkOptions {
  /** 1 … 64. */
  readonly count: number;
  readonly timeoutMs?: number | null | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

export type ForkResult =
  | { readonly ok: true; readonly sandbox: SandboxInfo }
  | { readonly ok: false; readonly code: string; readonly message: string };

export interface SnapshotInfo {
  /** `[a-z0-9]{20}`. */
  readonly id: string;
  readonly name: string | null;
  /** Id of its sandbox. */
  readonly sandbox: string;
  /** As the sandbox had them. */
  readonly annotations: Readonly<Record<string, string>>;
  readonly cpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  readonly createdAtMs: number;
  /** Size on disk. */
  readonly bytes: number;
  /** It has no memory: sandboxes boot from its disk. */
  readonly diskOnly: boolean;
  /** False: it needs another kernel, image, VMM or processor, and can't start here. */
  readonly current: boolean;
}

export interface PoolLimits {
  /** Minimum of idle members. */
  readonly min: number;
  /** Maximum of idle members. */
  readonly max: number;
}

/** The template of a pool: its name, or what a request without a name would say. */
export type PoolMembers = TemplateRequest & Pick<CreateRequest, 'template'>;

export interface PoolInfo extends PoolLimits {
  /** Key of the template. */
  readonly template: string;
  /** Name of the template that the pool was set with. */
  readonly name: string | null;
  readonly spec: TemplateSpec;
  /** The wanted number of idle members, between min and max by demand. */
  readonly target: number;
  readonly ready: number;
  readonly starting: number;
  /** Requests that got a member, since the start. */
  readonly hits: number;
  /** Requests that found none and started a clone. */
  readonly misses: number;
  /** Members that died or failed a check, and were not handed out. */
  readonly discarded: number;
}

export interface HostInfo {
  readonly version: string;
  /** e.g. `QEMU 7.2.22 (software emulation)`. */
  readonly vmm: string;
  /** One clause for people: why this VMM was chosen. */
  readonly vmmReason: string;
  /** One clause for people: whose sandboxes share memory, or why none does. */
  readonly memorySharing: string;
  readonly accelerator: string;
  /** The model server, as text. */
  readonly upstream: string;
  /** Models that it offers now; null: it does not say. */
  readonly models: readonly string[] | null;
  readonly sandboxes: number;
  readonly paused: number;
  /** Requests in the start queue. */
  readonly queued: number;
  readonly memoryAvailableMib: number;
  readonly startedAtMs: number;
  /** Budgets for models that the caller's sandboxes share: for the operator, those of all tenants, too. */
  readonly modelBudgets: readonly SharedBudget[];
}
