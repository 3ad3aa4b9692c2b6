/**
 * What happened to one sandbox over all its lives, numbered: the newest are kept for who comes later, and
 * who listens hears each as it comes. In memory: it ends with the process that holds the sandbox.
 */

import type { Clock } from '../../base/clock.ts';
import { Listeners } from '../../base/listeners.ts';
import type { EventSink, SandboxEventBody, TimedEvent } from '../events.ts';

export const JOURNAL_LIMITS = {
  /** Events that are kept. */
  eventsMax: 256,
  /** That wait for one reader of `read`; the oldest of more are dropped, which it sees by their numbers. */
  waitingMax: 256,
} as const;

export class EventJournal implements EventSink {
  readonly #clock: Pick<Clock, 'wall'>;
  readonly #kept: TimedEvent[] = [];
  readonly #listeners = new Listeners<TimedEvent>();
  #seq = 0;

  /** @param listener the first of them */
  constructor(clock: Pick<Clock, 'wall'>, listener?: (event: TimedEvent) => void) {
    this.#clock = clock;
    if (listener !== undefined) this.listen(listener);
  }

  /** After `end` nothing is: what was still under way then has no reader. */
  note(body: SandboxEventBody): void {
    if (this.#kept.at(-1)?.type === 'end') return;
    this.#seq += 1;
    const event = { ...body, seq: this.#seq, atMs: Math.floor(this.#clock.wall()) };
    this.#kept.push(event);
    if (this.#kept.length > JOURNAL_LIMITS.eventsMax) this.#kept.shift();
    this.#listeners.emit(event);
  }

  /** Readers and listeners that there are. */
  get listeners(): number {
    return this.#listeners.size;
  }

  /** Those that come from now on. Returns how to stop. */
  listen(listener: (event: TimedEvent) => void): () => void {
    return this.#listeners.listen(listener);
  }

  /** Those that are kept and are newer than `after`; a number that never was is of another journal. */
  since(after: number): readonly TimedEvent[] {
    const from = after > this.#seq ? 0 : after;
    return this.#kept.filter(({ seq }) => seq > from);
  }

  /** What is kept, then what comes, up to the end of the sandbox or of `signal`. */
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
