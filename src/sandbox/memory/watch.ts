/**
 * What the guest's kernel and the host's say of one VM's memory, joined to one bounded stream. Pure: what
 * comes in is answered by what is to be told.
 *
 *     guest agent ── pressure, near_oom, oom, dropped ──┐
 *                                                       ├─► MemoryWatch ─► events, marks for the ending
 *     cgroup of the VMM, tracepoints ── HostMemoryEvents ┘
 *
 * A guest may say anything as often as it likes: each type has a budget of its own, so that a flood of one
 * pushes out no other, and what is over it is counted and told with the next event.
 */
import { TokenBucket } from '../../base/token-bucket.ts';
import type { GuestEvent, OomVictim } from '../../guest/guest.ts';

/** Which kernel says so. */
export type MemorySource = 'guest' | 'host';

interface Amount {
  readonly source: MemorySource;
  readonly memoryBytes: number;
  /** Where the kernel kills; 0: not known. */
  readonly limitBytes: number;
}

export interface PressureEvent extends Amount {
  readonly type: 'pressure';
  /** Percent of the last 10 s in which some programs, and all of them, stood still for want of memory. */
  readonly some: number;
  readonly full: number;
}

/** A kill is likely soon; there is time to act. */
export interface NearOomEvent extends Amount {
  readonly type: 'near_oom';
}

export interface OomEvent {
  readonly type: 'oom';
  readonly source: MemorySource;
  /** Null: the kernel did not say. */
  readonly victim: OomVictim | null;
  readonly detail: string;
}

/** Events that were not told because there were too many. */
export interface DroppedEvent {
  readonly type: 'dropped';
  readonly count: number;
}

/** A VMM did what none does: somebody may have taken it over. Of no guest's telling. */
export interface SecurityEvent {
  readonly type: 'security';
  readonly source: 'host';
  readonly what: 'vmm_exec';
  readonly detail: string;
}

/** Its guest has been given more memory, or has given some back. */
export interface ResizedEvent {
  readonly type: 'resized';
  /** `pressure`: it was short of it. */
  readonly by: 'pressure' | 'owner';
  readonly fromMib: number;
  readonly toMib: number;
  /** From the request until its programs may use it. */
  readonly durationMs: number;
}

export type MemoryEvent =
  | PressureEvent
  | NearOomEvent
  | OomEvent
  | SecurityEvent
  | DroppedEvent
  | ResizedEvent;

/** Of one VMM: the events of its cgroup (v1 or v2), or of a tracepoint. */
export type HostMemoryEvent =
  | Omit<PressureEvent, 'source'>
  | Omit<NearOomEvent, 'source'>
  | Omit<OomEvent, 'source'>
  | Omit<SecurityEvent, 'source'>;

/** Who watches the host's side; whoever confines the VMM makes it. */
export interface HostMemoryEvents {
  /** Returns how to stop. */
  listen(listener: (event: HostMemoryEvent) => void): () => void;
  /** Processes of this VMM that the host's kernel has killed for want of memory; also after its end. */
  oomKills(): number;
}

/** The last of a kind, for the evidence of an ending. Times: milliseconds since 1970. */
export type PressureMark = (PressureEvent | NearOomEvent) & { readonly atMs: number };
export type OomMark = Omit<OomEvent, 'type'> & { readonly atMs: number };

export const MEMORY_LIMITS = {
  /** Of each type: events at once, and per second. */
  burst: 10,
  perSecond: 2,
  /** A detail, characters. */
  detailCharactersMax: 500,
} as const;

type Told = Exclude<MemoryEvent, DroppedEvent | ResizedEvent>;

export class MemoryWatch {
  readonly #budgets: Readonly<Record<Told['type'], TokenBucket>>;
  #dropped = 0;
  #lastPressure: PressureMark | null = null;
  #lastOom: OomMark | null = null;

  /** @param nowMs monotonic, here and below */
  constructor(nowMs: number) {
    const limit = { size: MEMORY_LIMITS.burst, refillPerSecond: MEMORY_LIMITS.perSecond };
    const budget = (): TokenBucket => new TokenBucket(limit, nowMs);
    this.#budgets = {
      ...{ pressure: budget(), near_oom: budget(), oom: budget(), security: budget() },
    };
  }

  get lastPressure(): PressureMark | null {
    return this.#lastPressure;
  }

  get lastOom(): OomMark | null {
    return this.#lastOom;
  }

  /** @param wallMs since 1970, for the marks only: it may step */
  fromGuest(event: GuestEvent, nowMs: number, wallMs: number): readonly MemoryEvent[] {
    const source = 'guest';
    switch (event.type) {
      case 'pressure': {
        const { type, memoryBytes, limitBytes, some, full } = event;
        return this.#tell({ type, source, memoryBytes, limitBytes, some, full }, nowMs, wallMs);
      }
      case 'near_oom': {
        const { type, memoryBytes, limitBytes } = event;
        return this.#tell({ type, source, memoryBytes, limitBytes }, nowMs, wallMs);
      }
      case 'oom': {
        const { type, victim, detail } = event;
        return this.#tell({ type, source, victim, detail }, nowMs, wallMs);
      }
      case 'dropped':
        this.#dropped = Math.min(this.#dropped + event.count, Number.MAX_SAFE_INTEGER);
        return [];
      default:
        return [];
    }
  }

  fromHost(event: HostMemoryEvent, nowMs: number, wallMs: number): readonly MemoryEvent[] {
    const source = 'host';
    // Each alone, so that its other fields stay those of its type.
    return event.type === 'security'
      ? this.#tell({ ...event, source }, nowMs, wallMs)
      : this.#tell({ ...event, source }, nowMs, wallMs);
  }

  #tell(given: Told, nowMs: number, atMs: number): readonly MemoryEvent[] {
    const event = 'detail' in given ? { ...given, detail: cut(given.detail) } : given;
    if (event.type === 'oom') {
      const { type: _type, ...mark } = event;
      this.#lastOom = { ...mark, atMs };
    } else if (event.type !== 'security') {
      this.#lastPressure = { ...event, atMs };
    }
    const budget = this.#budgets[event.type];
    if (!budget.tryOpen(nowMs)) {
      this.#dropped += 1;
      return [];
    }
    budget.spend(1);
    const count = this.#dropped;
    this.#dropped = 0;
    return count === 0 ? [event] : [{ type: 'dropped', count }, event];
  }
}

const cut = (detail: string): string => detail.slice(0, MEMORY_LIMITS.detailCharactersMax);
