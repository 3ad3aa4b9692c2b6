/** Memory events of one VM, reported by the guest's and the host's kernel (types only). */
import type { OomVictim } from '../../machine/guest/guest.ts';

export type MemorySource = 'guest' | 'host';

interface MemoryUse {
  readonly source: MemorySource;
  readonly memoryBytes: number;
  /** Usage at which the kernel kills; 0 if unknown. */
  readonly limitBytes: number;
}

export interface PressureEvent extends MemoryUse {
  readonly type: 'pressure';
  /** PSI: percent of the last 10 s in which some, or all, tasks waited for memory. */
  readonly some: number;
  readonly full: number;
}

/** An OOM kill is likely soon, but there is still time to act. */
export interface NearOomEvent extends MemoryUse {
  readonly type: 'near_oom';
}

export interface OomEvent {
  readonly type: 'oom';
  readonly source: MemorySource;
  /** `null` if the kernel did not name the victim. */
  readonly victim: OomVictim | null;
  readonly detail: string;
}

/** Events that were omitted because there were too many. */
export interface DroppedEvent {
  readonly type: 'dropped';
  readonly count: number;
}

/** The VMM did something that no intact VMM does: it may be compromised. Only the host reports this. */
export interface SecurityEvent {
  readonly type: 'security';
  readonly source: 'host';
  readonly what: 'vmm_exec';
  readonly detail: string;
}

/** The guest's memory grew or shrank. */
export interface ResizedEvent {
  readonly type: 'resized';
  /** `pressure` if the guest was close to OOM. */
  readonly by: 'pressure' | 'owner';
  readonly fromMib: number;
  readonly toMib: number;
  /** Time from the request until programs may use the memory. */
  readonly durationMs: number;
}

export type MemoryEvent = PressureEvent | NearOomEvent | OomEvent | SecurityEvent | DroppedEvent | ResizedEvent;

/** Reported by the cgroup (v1 or v2) of one VMM, or by a tracepoint. */
export type HostMemoryEvent =
  | Omit<PressureEvent, 'source'>
  | Omit<NearOomEvent, 'source'>
  | Omit<OomEvent, 'source'>
  | Omit<SecurityEvent, 'source'>;

/** The host's view of one VMM, provided by the part that confines it. */
export interface HostMemoryEvents {
  listen(listener: (event: HostMemoryEvent) => void): () => void;
  /** Number of this VM's processes killed by the host's OOM killer; still readable after the VM ended. */
  oomKills(): number;
}

/** The last event of each kind, kept as evidence for the end. Times are milliseconds since 1970. */
export type PressureMark = (PressureEvent | NearOomEvent) & { readonly atMs: number };
export type OomMark = Omit<OomEvent, 'type'> & { readonly atMs: number };
