/** Detects idle sandboxes: no open operation, no model request, no traffic. */
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';

export interface Activity {
  readonly busy: boolean;
  /** Bytes through the channel and network card, both directions, since they were plugged. */
  readonly bytes: number;
}

/** Checks per timeout; detection is late by at most one interval. */
const CHECKS = 8;
const CHECK_MS_MIN = 100;
const CHECK_MS_MAX = 10_000;

export class IdleWatch {
  readonly #clock: Clock;
  readonly #read: () => Promise<Activity | null>;
  readonly #onIdle: () => void;
  #limitMs: number | null = null;
  #activeAtMs: number;
  #bytes = -1;
  #cancel: () => void = () => undefined;
  /** Incremented by each start and stop, so that late answers of an earlier run are ignored. */
  #turn = 0;

  /** @param options.read returns `null` if unknown, which counts as activity */
  constructor(options: { clock: Clock; read: () => Promise<Activity | null>; onIdle: () => void }) {
    this.#clock = options.clock;
    this.#read = options.read;
    this.#onIdle = options.onIdle;
    this.#activeAtMs = options.clock.now();
  }

  /** Milliseconds since the last use; traffic alone counts only if there is an idle timeout. */
  get idleMs(): number {
    return this.#clock.now() - this.#activeAtMs;
  }

  /** @param limitMs `null`: never idle */
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

  touch(): void {
    this.#activeAtMs = this.#clock.now();
  }

  #later(turn: number): void {
    const limitMs = this.#limitMs ?? CHECK_MS_MAX;
    const waitMs = Math.min(CHECK_MS_MAX, Math.max(CHECK_MS_MIN, limitMs / CHECKS));
    this.#cancel = this.#clock.after(waitMs, () => void this.#check(turn));
  }

  async #check(turn: number): Promise<void> {
    const seen = await this.#read().catch((error: unknown) => {
      ignore(error, 'an unknown activity counts as activity');
      return null;
    });
    if (turn !== this.#turn || this.#limitMs === null) return;
    if (seen === null || seen.busy || seen.bytes !== this.#bytes) this.touch();
    this.#bytes = seen?.bytes ?? -1;
    if (this.#clock.now() - this.#activeAtMs >= this.#limitMs) this.#onIdle();
    else this.#later(turn);
  }
}
