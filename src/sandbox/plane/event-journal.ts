/**
 * The numbered events of one sandbox over all its VMs. The newest are kept for later readers; listeners get each new
 * one. They are in memory, so they are lost with the process that owns the sandbox. The row keeps a number that none of
 * them has passed, so the next process goes on above it: no number is used twice.
 */

import type { Clock } from '../../base/clock.ts';
import { Listeners } from '../../base/listeners.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import type { EventSink, SandboxEventBody, TimedEvent } from '../contract/events.ts';

export const JOURNAL_LIMITS = {
  /** Maximum number of kept events. */
  eventsMax: 256,
  /** Maximum backlog of one reader. Beyond it the oldest events are dropped; the reader sees a gap in the numbers. */
  waitingMax: 256,
  /** Numbers that a row reserves, so that not each event needs a write. */
  reserved: 1024,
} as const;

export class EventJournal implements EventSink {
  readonly #clock: Pick<Clock, 'wall'>;
  readonly #kept: TimedEvent[] = [];
  readonly #listeners = new Listeners<TimedEvent>();
  #seq: number;
  #reservedTo = 0;

  /** @param last no event gets this number or a lower one */
  constructor(clock: Pick<Clock, 'wall'>, listener?: (event: TimedEvent) => void, last = 0) {
    this.#clock = clock;
    this.#seq = last;
    if (listener !== undefined) this.listen(listener);
  }

  /** Ignores everything after an `end` event. */
  note(body: SandboxEventBody): void {
    if (this.#kept.at(-1)?.type === 'end') return;
    this.#seq += 1;
    const event = { ...body, seq: this.#seq, atMs: Math.floor(this.#clock.wall()) };
    this.#kept.push(event);
    if (this.#kept.length > JOURNAL_LIMITS.eventsMax) this.#kept.shift();
    this.#listeners.emit(event);
  }

  /** For a row that will be written now: the next process numbers its events from above this. */
  reserve(): number {
    this.#reservedTo = this.#seq + JOURNAL_LIMITS.reserved;
    return this.#reservedTo;
  }

  /** Whether the row should be written again. */
  get isShort(): boolean {
    return this.#seq > this.#reservedTo - JOURNAL_LIMITS.reserved / 2;
  }

  /** @param last of the row: more than was reserved here means that another process had the sandbox */
  skipTo(last: number): void {
    if (last > this.#reservedTo) this.#seq = Math.max(this.#seq, last);
  }

  get listeners(): number {
    return this.#listeners.size;
  }

  /** Subscribes to new events. Returns a function that unsubscribes. */
  listen(listener: (event: TimedEvent) => void): () => void {
    return this.#listeners.listen(listener);
  }

  /** Kept events newer than `after`. A number from the future is of a version that began anew: then all kept events. */
  since(after: number): readonly TimedEvent[] {
    const from = after > this.#seq ? 0 : after;
    return this.#kept.filter(({ seq }) => seq > from);
  }

  async *read(after: number, signal: AbortSignal): AsyncGenerator<TimedEvent, void, undefined> {
    const waiting: TimedEvent[] = [...this.since(after)];
    let wake = (): void => undefined;
    const stop = this.listen((event) => {
      waiting.push(event);
      if (waiting.length > JOURNAL_LIMITS.waitingMax) waiting.shift();
      wake();
    });
    const onAbort = (): void => wake();
    signal.addEventListener('abort', onAbort);
    try {
      while (!signal.aborted) {
        const event = waiting.shift();
        if (event === undefined) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        } else {
          yield event;
          if (event.type === 'end') return;
        }
      }
    } finally {
      stop();
      signal.removeEventListener('abort', onAbort);
    }
  }
}

const RECORDS_MAX = 256;
const SAVE_MS = 2_000;

/** The last model requests of a sandbox, oldest first. */
export class UsageLog {
  readonly #records: UsageRecord[] = [];
  readonly #clock: Clock;
  readonly #save: (() => void) | undefined;
  #isSaving = false;

  /** @param save called 2 seconds after a request, for all of that time */
  constructor(clock: Clock, save?: () => void) {
    this.#clock = clock;
    this.#save = save;
  }

  get records(): readonly UsageRecord[] {
    return this.#records;
  }

  note(record: UsageRecord): void {
    this.#records.push(record);
    if (this.#records.length > RECORDS_MAX) this.#records.shift();
    if (this.#save === undefined || this.#isSaving) return;
    this.#isSaving = true;
    this.#clock.after(SAVE_MS, () => {
      this.#isSaving = false;
      this.#save?.();
    });
  }
}

export type SandboxTimedEvent = TimedEvent & { readonly sandbox: string };

export const RECENT_LIMITS = { eventsMax: 64, perSandboxMax: 16 } as const;

/** The newest events of all sandboxes of a host, for a live view. Each sandbox has a limited share. */
export class RecentEvents {
  readonly #kept: SandboxTimedEvent[] = [];

  note(sandbox: string, event: TimedEvent): void {
    this.#kept.push({ ...event, sandbox });
    const own = this.#kept.filter((one) => one.sandbox === sandbox).length;
    if (own > RECENT_LIMITS.perSandboxMax) {
      const oldest = this.#kept.findIndex((one) => one.sandbox === sandbox);
      this.#kept.splice(oldest, 1);
    }
    if (this.#kept.length > RECENT_LIMITS.eventsMax) this.#kept.shift();
  }

  /** Oldest first. */
  list(): readonly SandboxTimedEvent[] {
    return [...this.#kept];
  }
}
