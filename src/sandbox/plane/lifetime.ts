/**
 * How long a sandbox may run, and how long it may do nothing, and what happens then. Both count while it
 * runs; a pause that fails is tried again.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { LifetimePolicy } from '../request.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { type Activity, IdleWatch } from './idle-watch.ts';

export interface LifetimeOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** For the log. */
  readonly sandbox: string;
  /** What holds now. */
  policy(): Pick<LifetimePolicy, 'timeoutMs' | 'onTimeout' | 'idleTimeoutMs'>;
  /** Null: it can't be told now. */
  activity(): Promise<Activity | null>;
  kill(): void;
  /** False: it does not run any more, so there is nothing to pause. */
  pause(): Promise<boolean>;
}

/** After a pause that nobody asked for has failed. */
export const RETRY_PAUSE_MS = 60_000;

export class Lifetime {
  readonly #options: LifetimeOptions;
  readonly #idle: IdleWatch;
  #endsAtMs: number | null = null;
  #cancelTimeout: () => void = () => undefined;
  #cancelIdle: () => void = () => undefined;
  /** Each grows with its start and stop: a pause that fails later than that is not tried again. */
  readonly #turns = { timeout: 0, idle: 0 };

  constructor(options: LifetimeOptions) {
    this.#options = options;
    const { clock, activity } = options;
    this.#idle = new IdleWatch({ clock, read: activity, onIdle: () => this.#idleIsOver() });
  }

  /** Wall clock; null: no limit, or it does not count now. */
  get endsAtMs(): number | null {
    return this.#endsAtMs;
  }

  /** Both count from now. */
  start(): void {
    this.startTimeout();
    this.startIdle();
  }

  startTimeout(): void {
    this.#turns.timeout += 1;
    this.#cancelTimeout();
    this.#endsAtMs = null;
    const { clock, policy } = this.#options;
    const { timeoutMs } = policy();
    if (timeoutMs === null) return;
    this.#endsAtMs = Math.round(clock.wall() + timeoutMs);
    this.#cancelTimeout = clock.after(timeoutMs, () => this.#timeIsOver());
  }

  startIdle(): void {
    this.#turns.idle += 1;
    this.#cancelIdle();
    this.#idle.start(this.#options.policy().idleTimeoutMs);
  }

  /** Something was asked of the sandbox. */
  touch(): void {
    this.#idle.touch();
  }

  /** @param what `idle`: its time goes on */
  stop(what: 'all' | 'idle' = 'all'): void {
    this.#turns.idle += 1;
    this.#cancelIdle();
    this.#idle.stop();
    if (what === 'idle') return;
    this.#turns.timeout += 1;
    this.#cancelTimeout();
    this.#endsAtMs = null;
  }

  #timeIsOver(): void {
    const { policy, kill, clock } = this.#options;
    if (policy().onTimeout === 'kill') {
      kill();
      return;
    }
    void this.#pause('timeout', 'its time is over', () => {
      this.#cancelTimeout = clock.after(RETRY_PAUSE_MS, () => this.#timeIsOver());
    });
  }

  #idleIsOver(): void {
    void this.#pause('idle', 'it was idle', () => {
      // It must then have been idle anew.
      this.#cancelIdle = this.#options.clock.after(RETRY_PAUSE_MS, () => this.startIdle());
    });
  }

  /** Never rejects. */
  async #pause(limit: 'timeout' | 'idle', why: string, again: () => void): Promise<void> {
    const { sandbox, log, pause } = this.#options;
    const turn = this.#turns[limit];
    try {
      if (await pause()) log.info('a sandbox was paused', { sandbox, why });
    } catch (error) {
      const reason = describeError(error);
      log.warn('a sandbox could not be paused', { sandbox, why, reason });
      if (turn === this.#turns[limit]) again();
    }
  }
}

/** Null: there is no VM, or it tells nothing now. */
export async function activityOf(supervisor: Supervisor | undefined): Promise<Activity | null> {
  if (supervisor?.vm === undefined) return null;
  const stats = await supervisor.vm.channelStats();
  const onChannel = stats.bytesGuestToHost + stats.bytesHostToGuest;
  const bytes = onChannel + (await supervisor.card.bytes());
  // One connection is the agent's own.
  return { busy: stats.connectionsOpen > 1 || supervisor.modelRequests > 0, bytes };
}
