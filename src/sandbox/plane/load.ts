/** Current resource usage of sandboxes, for a live view (types only). */

import type { OomMark, PressureMark } from '../contract/memory-events.ts';
import type { SandboxState } from '../vm/lifecycle.ts';
import type { SandboxTimedEvent } from './event-journal.ts';

export interface SandboxLoad {
  /** Id of a sandbox or pool member. */
  readonly id: string;
  readonly state: SandboxState;
  /** Host memory of this VM alone, freed when it ends; `null` if it has no process of its own. */
  readonly memoryBytes: number | null;
  readonly modelRequests: number;
  /** Prompt and answer tokens of this VM. */
  readonly tokens: number;
  /** The last pressure event of this VM; `null` if there was none. The reader checks its age. */
  readonly lastPressure: PressureMark | null;
  readonly lastOom: OomMark | null;
  /** Packets since the network card was plugged; omitted if not measured. */
  readonly packets?: Readonly<Record<'peer' | 'guest' | 'forward', PacketTimes>> | undefined;
  /** Syscalls of the VMM, the most frequent first; omitted if not counted. */
  readonly syscalls?: Readonly<Record<string, number>> | undefined;
}

/** Packet latency on one path (docs/observability.md). */
export interface PacketTimes {
  readonly count: number;
  /** `null` without packets. */
  readonly p50Ns: number | null;
  readonly p95Ns: number | null;
}

/** PSI: share of the last 10 s in which some, or all, tasks waited for memory; 0 to 1. */
export interface MemoryPressure {
  readonly some: number;
  readonly full: number;
}

export interface SandboxLoads {
  /** Milliseconds since 1970, by the host's clock. */
  readonly atMs: number;
  readonly sandboxes: readonly SandboxLoad[];
  /** RAM of templates, snapshots and forks that VMs share, counted once; `null` if not reported. */
  readonly sharedMemoryBytes: number | null;
  /** `null` if the kernel does not report it. */
  readonly memoryPressure: MemoryPressure | null;
  /** The newest events of all sandboxes, oldest first (`event-journal.ts`). */
  readonly events: readonly SandboxTimedEvent[];
}
