/**
 * The memory events of one VM, from the guest's and the host's kernel, as one bounded stream. Pure: takes an event,
 * returns the events to emit.
 *
 *     guest agent ── pressure, near_oom, oom, dropped ──┐
 *                                                       ├─► MemoryWatch ─► events, marks for the ending
 *     cgroup of the VMM, tracepoints ── HostMemoryEvents ┘
 *
 * A guest may send anything at any rate: each type has its own budget, so that a flood of one type does not displace
 * another. Events over the budget are counted, and the count comes with the next event.
 */

import { TokenBucket } from '../../base/token-bucket.ts';
import type { GuestEvent } from '../../machine/guest/guest.ts';
import type {
  DroppedEvent,
  HostMemoryEvent,
  MemoryEvent,
  OomMark,
  PressureMark,
  ResizedEvent,
} from '../contract/memory-events.ts';

export const MEMORY_LIMITS = {
  /** Budget of each type: events in a burst, and per second. */
  burst: 10,
  perSecond: 2,
  detailCharactersMax: 500,
} as const;

type LimitedEvent = Exclude<MemoryEvent, DroppedEvent | ResizedEvent>;

export class MemoryWatch {
  readonly #budgets: Readonly<Record<LimitedEvent['type'], TokenBucket>>;
  #dropped = 0;
  #lastPressure: PressureMark | null = null;
  #lastOom: OomMark | null = null;

  /** @param nowMs monotonic, here and below */
  constructor(nowMs: number) {
    const limit = { size: MEMORY_LIMITS.burst, refillPerSecond: MEMORY_LIMITS.perSecond };
    const budget = (): TokenBucket => new TokenBucket(limit, nowMs);
    this.#budgets = { pressure: budget(), near_oom: budget(), oom: budget(), security: budget() };
  }

  get lastPressure(): PressureMark | null {
    return this.#lastPressure;
  }

  get lastOom(): OomMark | null {
    return this.#lastOom;
  }

  /** @param wallMs milliseconds since 1970, used only in marks: it may step */
  fromGuest(event: GuestEvent, nowMs: number, wallMs: number): readonly MemoryEvent[] {
    const source = 'guest';
    switch (event.type) {
      case 'pressure': {
        const { type, memoryBytes, limitBytes, some, full } = event;
        return this.#limit({ type, source, memoryBytes, limitBytes, some, full }, nowMs, wallMs);
      }
      case 'near_oom': {
        const { type, memoryBytes, limitBytes } = event;
        return this.#limit({ type, source, memoryBytes, limitBytes }, nowMs, wallMs);
      }
      case 'oom': {
        const { type, victim, detail } = event;
        return this.#limit({ type, source, victim, detail }, nowMs, wallMs);
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
    // Separate calls, so that the other fields keep their types.
    return event.type === 'security'
      ? this.#limit({ ...event, source }, nowMs, wallMs)
      : this.#limit({ ...event, source }, nowMs, wallMs);
  }

  #limit(given: LimitedEvent, nowMs: number, atMs: number): readonly MemoryEvent[] {
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
