/** What the kernels of guest and host report about the memory of one VM (types only). */
import type { OomVictim } from '../../machine/guest/guest.ts';

/** The kernel that reports. */
export type MemorySource = 'guest' | 'host';

interface MemoryUse {
  readonly source: MemorySource;
  readonly memoryBytes: number;
  /** At this usage the kernel kills; 0: not known. */
  readonly limitBytes: number;
}

export interface PressureEvent extends MemoryUse {
  readonly type: 'pressure';
  /** Percent of the last 10 s in which some tasks, and all of them, waited for memory. */
  readonly some: number;
  readonly full: number;
}

/** A kill is likely soon; there is time to act. */
export interface NearOomEvent extends MemoryUse {
  readonly type: 'near_oom';
}

export interface OomEvent {
  readonly type: 'oom';
  readonly source: MemorySource;
  /** Null: the kernel did not say. */
  readonly victim: OomVictim | null;
  readonly detail: string;
}

/** Events that were left out because there were too many. */
export interface DroppedEvent {
  readonly type: 'dropped';
  readonly count: number;
}

/** A VMM did what no VMM does: it may have been taken over. Only the host reports this. */
export interface SecurityEvent {
  readonly type: 'security';
  readonly source: 'host';
  readonly what: 'vmm_exec';
  readonly detail: string;
}

/** The memory of the guest grew or shrank. */
export interface ResizedEvent {
  readonly type: 'resized';
  /** `pressure`: the guest was close to OOM. */
  readonly by: 'pressure' | 'owner';
  readonly fromMib: number;
  readonly toMib: number;
  /** From the request until programs may use the memory. */
  readonly durationMs: number;
}

export type MemoryEvent = PressureEvent | NearOomEvent | OomEvent | SecurityEvent | DroppedEvent | ResizedEvent;

/** From the cgroup (v1 or v2) of one VMM, or from a tracepoint. */
export type HostMemoryEvent =
  | Omit<PressureEvent, 'source'>
  | Omit<NearOomEvent, 'source'>
  | Omit<OomEvent, 'source'>
  | Omit<SecurityEvent, 'source'>;

/** The host's view of one VMM. Made by the part that confines the VMM. */
export interface HostMemoryEvents {
  /** Returns the function that stops it. */
  listen(listener: (event: HostMemoryEvent) => void): () => void;
  /** Processes of this VM that the host's OOM killer has killed; readable after its end. */
  oomKills(): number;
}

/** The last event of a kind, as evidence for an ending. Times are milliseconds since 1970. */
export type PressureMark = (PressureEvent | NearOomEvent) & { readonly atMs: number };
export type OomMark = Omit<OomEvent, 'type'> & { readonly atMs: number };
