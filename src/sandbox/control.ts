/**
 * What a host of sandboxes can be asked for: one interface, so that the CLI, the library and the REST
 * server need not know where the sandboxes are.
 *
 *     CLI, library ──► ControlPlane ◄── implemented by  control-plane.ts  (in this process)
 *                                                       src/client        (a daemon, over HTTP)
 *
 * Types only. Times of day are milliseconds since 1970, durations milliseconds.
 */
import type { Duplex } from 'node:stream';
import type { ChannelLimits, ChannelStats } from '../base/channel.ts';
import type { DiskLimits } from '../base/disk-limits.ts';
import type { UsageRecord } from '../bridge/bridge.ts';
import type { Guest } from '../guest/guest.ts';
import type { GatewayUse } from '../net/lease/lease.ts';
import type { EndInfo, SandboxLogs } from './ending.ts';

import type { TimedEvent } from './events.ts';
import type { StartTimings } from './parts.ts';
import type { SecretInfo, SecretOptions } from './secrets.ts';
import type {
  EgressText,
  NetworkLimits,
  NetworkOptions,
  SandboxOptions,
  TemplateSpec,
} from './spec.ts';

export interface ControlPlane {
  host(): Promise<HostInfo>;
  /**
   * Ready when the promise resolves.
   * @throws SandboxError `spec_invalid`, `not_found` (snapshot), `snapshot_damaged`, `start_failed`, `cancelled`
   * @throws BusyError the queue is full, or its turn did not come in time
   */
  create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo>;
  /** Newest first; those that have ended are not in it. */
  list(filter?: SandboxFilter): Promise<readonly SandboxInfo[]>;
  /**
   * A sandbox by its id. One that has ended can be read for a while, with its end.
   * @throws SandboxError `not_found`; so do all below
   */
  get(id: string): Promise<SandboxInfo>;
  /** Changes what is given. */
  update(id: string, change: SandboxChange): Promise<SandboxInfo>;
  /** Ends it, in whatever state, and removes all of it. Resolves when nothing is left. */
  remove(id: string): Promise<SandboxInfo>;
  /**
   * `memory`: the CPUs stop. `disk`: the process ends, its memory is given back; open connections end.
   * @throws SandboxError `not_ready`: it is paused already, or is neither running nor starting
   */
  pause(id: string, to: 'memory' | 'disk'): Promise<SandboxInfo>;
  /** Same id, files and processes. A sandbox that runs stays as it is; two calls at once are one. */
  resume(id: string, signal?: AbortSignal): Promise<SandboxInfo>;
  /**
   * Keeps a running or paused sandbox under a new id; it goes on. Open connections to it end.
   * @throws SandboxError `not_ready`, `name_taken`, `snapshot_failed`, `disk_full`
   */
  snapshot(id: string, options?: { readonly name?: string }): Promise<SnapshotInfo>;
  /** Copies of a running or paused sandbox, each with an identity of its own, each with its own outcome. */
  fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]>;
  snapshots(): Promise<readonly SnapshotInfo[]>;
  /** @param idOrName of a snapshot. Sandboxes that started from it are not touched. */
  removeSnapshot(idOrName: string): Promise<void>;
  pools(): Promise<readonly PoolInfo[]>;
  /** Of the template that `spec` names (default: the default one), which is built if need be. */
  setPool(limits: PoolLimits, spec?: Partial<TemplateSpec>): Promise<PoolInfo>;
  /**
   * Operations of the guest. A paused sandbox is resumed first if it has `autoResume`.
   * @throws SandboxError `not_ready`
   */
  guest(id: string): Promise<Guest>;
  /**
   * A connection to the agent's operations port, for who speaks the guest protocol elsewhere: the
   * guest's `OK <n>` comes first, and a request may be written at once. Half-closes go through both
   * ways. What is said on it counts as traffic. Resumes as `guest` does.
   * @throws SandboxError `not_ready`
   */
  openOperation(id: string): Promise<Duplex>;
  /**
   * A TCP connection to what listens at the sandbox's own address, by its network card. Half-closes go
   * through both ways; it ends with the card. Resumes as `guest` does.
   * @throws SandboxError `not_ready`, `network_unavailable`: it has no card; `port_unreachable`
   */
  openPort(id: string, port: number, signal?: AbortSignal): Promise<Duplex>;
  channelStats(id: string): Promise<ChannelStats>;
  /** The last requests to the model, oldest first; bounded. */
  usage(id: string): Promise<readonly UsageRecord[]>;
  /**
   * Its serial console and the VMM's log, also after its end: of the newest 200, but not of those that were
   * removed while they ran.
   */
  logs(id: string): Promise<SandboxLogs>;
  /** The same and what comes, over all its VMs, up to its end or that of `signal`. */
  followLogs(id: string, signal: AbortSignal): AsyncIterable<LogChunk>;
  /**
   * What happens to its memory, what was done about it, and its end, which ends this too. First those that
   * are kept (256), then each as it comes.
   */
  events(id: string, options?: EventsOptions): AsyncIterable<TimedEvent>;
  /** Calls `listener` at each change of a sandbox's state. Returns how to stop. */
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
  /** Number of the last event that is known; default 0: all that are kept. */
  readonly after?: number | undefined;
  /** False: only those that there are now. Default true. */
  readonly follow?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export type SandboxStatus =
  | 'starting'
  | 'running'
  /** Its state is being saved; it goes on, or is paused, afterwards. */
  | 'saving'
  | 'paused'
  | 'resuming'
  | 'ending'
  | 'ended';

/** The action when a sandbox is close to OOM (`memory/policy.ts`). A URL receives the event. */
export type MemoryAction =
  | 'warn'
  | 'grow'
  | 'pause'
  | 'snapshot'
  | `http://${string}`
  | `https://${string}`;

export interface CreateRequest extends SandboxOptions {
  /** Id or name of a snapshot to go on from; CPUs, memory, disk and warm list are then the snapshot's. */
  readonly snapshot?: string | undefined;
  /** Free pairs for who made it; keys ≤ 64, values ≤ 1024 characters, 32 pairs. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** What happens when `timeoutMs` is over. Default `kill`. */
  readonly onTimeout?: 'kill' | 'pause' | undefined;
  /** Paused to disk after this long without an open operation, a model request or traffic. Default: never. */
  readonly idleTimeoutMs?: number | null | undefined;
  /** An operation on it while it is paused resumes it. Default: true. */
  readonly autoResume?: boolean | undefined;
  /** What is done when it is near its limit of memory; at its maximum, if it has one. Default `warn`. */
  readonly onMemoryPressure?: MemoryAction | undefined;
  /** Boot, even where a template or a pool would start faster. */
  readonly boot?: boolean | undefined;
  /** How long the request may wait for its turn. Default 60 s. */
  readonly queueTimeoutMs?: number | undefined;
}

export interface SandboxChange {
  /** Counts from now; null: no limit. */
  readonly timeoutMs?: number | null | undefined;
  readonly onTimeout?: 'kill' | 'pause' | undefined;
  readonly idleTimeoutMs?: number | null | undefined;
  readonly autoResume?: boolean | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  readonly onMemoryPressure?: MemoryAction | undefined;
  /**
   * Of one that has a maximum: what its guest is to have from now on, MiB. Less only as far as its programs leave
   * it free. Resumes as `guest` does.
   */
  readonly memoryMib?: number | undefined;
  /** Replaces all of them: a direction that is not named has no limit then. Resumes as `guest` does. */
  readonly channelLimits?: ChannelLimits | undefined;
  /** The same of its disks: replaces all of them; what is not named has no limit then. */
  readonly diskLimits?: DiskLimits | undefined;
  /**
   * Holds at once; what it forbids is closed. A network card is plugged or unplugged where need be; null:
   * none. Resumes as `guest` does.
   */
  readonly network?: NetworkOptions | null | undefined;
  /**
   * Replaces all of them; one of the same name keeps its placeholder. Resumes as `guest` does, but what is
   * paused on the disk stays there, so that it can be given them before.
   */
  readonly secrets?: readonly SecretOptions[] | undefined;
}

export interface SandboxFilter {
  readonly status?: readonly SandboxStatus[] | undefined;
  /** All pairs must be there. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

export interface SandboxInfo {
  /** `[a-z0-9]{20}`. */
  readonly id: string;
  readonly status: SandboxStatus;
  /** Where its memory is while it is paused. */
  readonly pausedTo: 'memory' | 'disk' | null;
  readonly cpus: number;
  /** What its guest has now. */
  readonly memoryMib: number;
  /** What it can be given while it runs; null: its memory stays as it is. */
  readonly memoryMaxMib: number | null;
  readonly diskMib: number;
  readonly metadata: Readonly<Record<string, string>>;
  /** How it came to be. */
  readonly origin: 'pool' | 'clone' | 'boot' | 'snapshot' | 'fork';
  /** Id of the snapshot that it goes on from. */
  readonly snapshot: string | null;
  /** The sandbox that it is a fork of. */
  readonly parent: string | null;
  readonly accelerator: string;
  readonly createdAtMs: number;
  /** When its `timeoutMs` is over; null: no limit, or it is paused. */
  readonly endsAtMs: number | null;
  readonly onTimeout: 'kill' | 'pause';
  readonly idleTimeoutMs: number | null;
  readonly autoResume: boolean;
  readonly onMemoryPressure: MemoryAction;
  /** How fast it may use its disks; what is not named has no limit. */
  readonly diskLimits: DiskLimits;
  /** What it may connect to; null: it has no network. */
  readonly network: NetworkInfo | null;
  /** Without values. */
  readonly secrets: readonly SecretInfo[];
  /** Of its last start; null while it starts for the first time, and for one out of the pool. */
  readonly timings: StartTimings | null;
  /** Asked for until ready, queue included; null while it starts. */
  readonly readyMs: number | null;
  /** Why it ended; null while it has not. */
  readonly end: EndInfo | null;
}

export interface NetworkInfo extends EgressText {
  readonly limits: NetworkLimits;
  /** What its gateway let through and refused; null while it has no network card. */
  readonly gatewayUse: GatewayUse | null;
  /** IPv4, of its network card; null while it has none: it is paused on the disk, or has ended. */
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
  /** The sandbox that it was taken of. */
  readonly sandbox: string;
  readonly cpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  readonly createdAtMs: number;
  /** On the disk. */
  readonly bytes: number;
  /** False: it is of another kernel, image, VMM or processor, and can't be started here now. */
  readonly current: boolean;
}

export interface PoolLimits {
  /** Members that wait, whatever the demand. */
  readonly min: number;
  /** The most that ever wait. */
  readonly max: number;
}

export interface PoolInfo extends PoolLimits {
  readonly template: string;
  readonly spec: TemplateSpec;
  /** Between min and max, by demand. */
  readonly target: number;
  readonly ready: number;
  readonly starting: number;
  /** Requests that found a member, since the start. */
  readonly hits: number;
  /** Requests that found none and were cloned. */
  readonly misses: number;
  /** Members that died or were unwell, and were not handed out. */
  readonly discarded: number;
}

export interface HostInfo {
  readonly version: string;
  /** e.g. `QEMU 7.2.22 (software emulation)`. */
  readonly vmm: string;
  readonly accelerator: string;
  /** The model server, for people. */
  readonly upstream: string;
  /** Names that it offers now; null when it does not say. */
  readonly models: readonly string[] | null;
  readonly sandboxes: number;
  readonly paused: number;
  /** Requests that wait for their turn. */
  readonly queued: number;
  readonly memoryAvailableMib: number;
  readonly startedAtMs: number;
}
