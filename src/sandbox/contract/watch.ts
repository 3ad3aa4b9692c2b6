/** The role of a control plane that reports: the host, statistics, logs, events and changes. */
import type { ChannelStats } from '../../base/channel.ts';
import type { SharedBudget } from '../../base/request/model-limits.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import type { SandboxLogs } from './ending.ts';
import type { TimedEvent } from './events.ts';
import type { SandboxInfo } from './schema/sandbox.ts';

export interface Watch {
  host(): Promise<HostInfo>;
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
  /** Creations and forks under way. */
  readonly starting: number;
  /** The operator lets it start no new sandboxes. */
  readonly cordoned: boolean;
  readonly memoryAvailableMib: number;
  readonly startedAtMs: number;
  /** Budgets for models that the caller's sandboxes share: for the operator, those of all tenants, too. */
  readonly modelBudgets: readonly SharedBudget[];
  /** For the operator: the longest turns of the event loop in the last day, over 50 ms, longest first; at most 10. */
  readonly longTurns: readonly LongTurn[];
}

type PlaneInfo = 'accelerator' | 'cordoned' | 'sandboxes' | 'paused' | 'queued' | 'starting' | 'startedAtMs';
/** The part of `HostInfo` that a control plane does not know itself. */
export type HostDescription = Omit<HostInfo, PlaneInfo>;

/** One turn of the event loop, in which nobody else was served. */
export interface LongTurn {
  /** Its end, milliseconds since 1970. */
  readonly atMs: number;
  readonly ms: number;
  /** Processor time of it; far less than `ms`: the process had to wait. */
  readonly cpuMs: number;
  /** Function and position in our code; null: none was seen. */
  readonly place: string | null;
}
