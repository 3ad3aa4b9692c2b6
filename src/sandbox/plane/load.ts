/** What sandboxes use now, for a live view (types only). */

import type { OomMark, PressureMark } from '../memory-events.ts';
import type { SandboxState } from '../vm/lifecycle.ts';
import type { SandboxTimedEvent } from './recent-events.ts';

export interface SandboxLoad {
  /** Of a sandbox, or of a member of a pool. */
  readonly id: string;
  readonly state: SandboxState;
  /** Of the host, that its VM holds; null: it has no process of its own. */
  readonly memoryBytes: number | null;
  /** Requests to the model under way. */
  readonly modelRequests: number;
  /** Of prompts and answers, of this VM's requests. */
  readonly tokens: number;
  /** The last of its VM; null: none yet. How long ago is for the reader to judge. */
  readonly lastPressure: PressureMark | null;
  readonly lastOom: OomMark | null;
  /** Of its network card, since it has that one; absent: they are not measured. */
  readonly packets?: Readonly<Record<'peer' | 'guest' | 'forward', PacketTimes>> | undefined;
  /** Of its VMM, by call, the most frequent first; absent: they are not counted. */
  readonly syscalls?: Readonly<Record<string, number>> | undefined;
}

/** Of the packets on one path (docs/observability.md). */
export interface PacketTimes {
  readonly count: number;
  /** Null without one. */
  readonly p50Ns: number | null;
  readonly p95Ns: number | null;
}

/** Share of the last 10 s in which some, or all, tasks waited for memory; 0 to 1. */
export interface MemoryPressure {
  readonly some: number;
  readonly full: number;
}

export interface SandboxLoads {
  /** Of the host's clock, milliseconds since 1970. */
  readonly atMs: number;
  readonly sandboxes: readonly SandboxLoad[];
  /** Null: the kernel does not tell. */
  readonly memoryPressure: MemoryPressure | null;
  /** The newest of all sandboxes, oldest first (`recent-events.ts`). */
  readonly events: readonly SandboxTimedEvent[];
}
