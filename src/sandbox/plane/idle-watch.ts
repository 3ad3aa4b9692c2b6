/** Tells when a sandbox has done nothing for a while: no open operation, no model request, no traffic. */
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';

export interface Activity {
  readonly busy: boolean;
  /** Of channel and network card, both ways, since they were plugged. */
  readonly bytes: number;
}

/** Looks so often within the time, so that it is at most this part late. */
const LOOKS = 8;
const LOOK_MS_MIN = 100;
const LOOK_MS_MAX = 10_000;

export class IdleWatch {
  readonly #clock: Clock;
  readonly #read: () => Promise<Activity | null>;
  readonly #onIdle: () => void;
  #limitMs: number | null = null;
  #activeAtMs = 0;
  #bytes = -1;
  #cancel: () => void = () => undefined;
  /** Grows with each start and stop, so that a late answer of an earlier one means nothing. */
  #turn = 0;

  /** @param options.read null: it can't be told now, which counts as activity */
  constructor(options: {
    clock: Clock;
    read: () => Promise<Activity | null>;
    onIdle: () => void;
  }) {
    this.#clock = options.clock;
    this.#read = options.read;
    this.#onIdle = options.onIdle;
  }

  /** @param limitMs null: never */
  start(limitMs: number | null): void {
    this.stop();
    this.#limitMs = limitMs;
    this.touch();
    if (limitMs !== null) this.#later(this.#turn);
  }

  stop(): void {
    this.#turn += 1;
    this.#cancel();
    this.#limitMs = null;
  }

  /** Something was asked of the sandbox. */
  touch(): void {
    this.#activeAtMs = this.#clock.now();
  }

  #later(turn: number): void {
    const limitMs = this.#limitMs ?? LOOK_MS_MAX;
    const waitMs = Math.min(LOOK_MS_MAX, Math.max(LOOK_MS_MIN, limitMs / LOOKS));
    this.#cancel = this.#clock.after(waitMs, () => void this.#look(turn));
  }

  async #look(turn: number): Promise<void> {
    const seen = await this.#read().catch((error: unknown) => {
      ignore(error, 'what can not be read counts as activity');
      return null;
    });
    if (turn !== this.#turn || this.#limitMs === null) return;
    if (seen === null || seen.busy || seen.bytes !== this.#bytes) this.touch();
    this.#bytes = seen?.bytes ?? -1;
    if (this.#clock.now() - this.#activeAtMs >= this.#limitMs) this.#onIdle();
    else this.#later(turn);
  }
}
