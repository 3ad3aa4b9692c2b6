/** The current usage of sandboxes, for a live view (types only). */

import type { OomMark, PressureMark } from '../contract/memory-events.ts';
import type { SandboxState } from '../vm/lifecycle.ts';
import type { SandboxTimedEvent } from './recent-events.ts';

export interface SandboxLoad {
  /** Id of a sandbox or pool member. */
  readonly id: string;
  readonly state: SandboxState;
  /** Host memory of the VM alone, which ends with it; null: no process of its own. */
  readonly memoryBytes: number | null;
  /** Requests to the model under way. */
  readonly modelRequests: number;
  /** Tokens of prompts and answers of this VM. */
  readonly tokens: number;
  /** The last one of this VM; null: none yet. The reader checks its age. */
  readonly lastPressure: PressureMark | null;
  readonly lastOom: OomMark | null;
  /** Since the network card was plugged; absent: not measured. */
  readonly packets?: Readonly<Record<'peer' | 'guest' | 'forward', PacketTimes>> | undefined;
  /** System calls of the VMM, the most frequent first; absent: not counted. */
  readonly syscalls?: Readonly<Record<string, number>> | undefined;
}

/** Latency of packets on one path (docs/observability.md). */
export interface PacketTimes {
  readonly count: number;
  /** Null: no packet. */
  readonly p50Ns: number | null;
  readonly p95Ns: number | null;
}

/** Share of the last 10 s in which some, or all, tasks waited for memory; 0 to 1. */
export interface MemoryPressure {
  readonly some: number;
  readonly full: number;
}

export interface SandboxLoads {
  /** Milliseconds since 1970, by the host's clock. */
  readonly atMs: number;
  readonly sandboxes: readonly SandboxLoad[];
  /** RAM of templates, snapshots and forks that VMs share, counted once; null: not told. */
  readonly sharedMemoryBytes: number | null;
  /** Null: the kernel does not report it. */
  readonly memoryPressure: MemoryPressure | null;
  /** The newest events of all sandboxes, oldest first (`recent-events.ts`). */
  readonly events: readonly SandboxTimedEvent[];
}
