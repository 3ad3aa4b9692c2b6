/**
 * Timeout and idle timeout of a sandbox. Both count while it runs; a pause that fails is retried. The timeout is a
 * deadline: a sandbox that is not paused when its grace is over is killed.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { PauseReason, SandboxStatus } from '../contract/control.ts';
import type { LifetimePolicy } from '../contract/request.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { type Activity, IdleWatch } from './idle-watch.ts';

export interface LifetimeOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** Id, for the log. */
  readonly sandbox: string;
  /** The current policy. */
  policy(): Pick<LifetimePolicy, 'timeoutMs' | 'onTimeout' | 'idleTimeoutMs'>;
  /** Null: unknown now. */
  activity(): Promise<Activity | null>;
  kill(): void;
  /**
   * Notes the reason once it is the pause's turn.
   * @param from paused in memory, or running. @returns false: the sandbox does neither any more
   */
  pause(to: 'disk' | 'disk-only', reason: PauseReason, from: readonly ('running' | 'paused')[]): Promise<boolean>;
}

/**
 * Time after the timeout within which `onTimeout: pause` must succeed; then the sandbox is killed. A pause needs answers
 * of the guest and the VMM, and they may never come.
 */
export const PAUSE_GRACE_MS = 120_000;
/** Delay before a failed pause is retried: within the grace, and of an idle sandbox. */
const RETRY_MS = { timeout: 10_000, idle: 60_000 } as const;

export class Lifetime {
  readonly #options: LifetimeOptions;
  readonly #idle: IdleWatch;
  #endsAtMs: number | null = null;
  #cancelTimeout: () => void = () => undefined;
  #cancelGrace: () => void = () => undefined;
  #cancelIdle: () => void = () => undefined;
  /** Incremented by each start and stop: a pause that fails later is not retried. */
  readonly #turns = { timeout: 0, idle: 0 };
  /** Of a paused sandbox: why, if not by request. */
  pauseReason: PauseReason | null = null;

  constructor(options: LifetimeOptions) {
    this.#options = options;
    const { clock, activity } = options;
    this.#idle = new IdleWatch({ clock, read: activity, onIdle: () => this.#onIdle() });
  }

  /** Wall clock; null: no timeout, or it does not count now. */
  get endsAtMs(): number | null {
    return this.#endsAtMs;
  }

  /** Since its last use, milliseconds; traffic alone counts only where there is an idle timeout. */
  get idleMs(): number {
    return this.#idle.idleMs;
  }

  /** It has an open operation or model request, or that is unknown. */
  async isBusy(): Promise<boolean> {
    return (await this.#options.activity())?.busy ?? true;
  }

  /**
   * To disk, for the memory of the host.
   * @returns false: it has no VM any more. @throws SandboxError: it could not be paused
   */
  async pauseForMemory(): Promise<boolean> {
    try {
      return await this.#options.pause('disk', 'host-memory', ['running', 'paused']);
    } catch (error) {
      this.pauseReason = null;
      throw error;
    }
  }

  /** Restarts both timeouts. */
  start(): void {
    this.pauseReason = null;
    this.startTimeout();
    this.startIdle();
  }

  startTimeout(): void {
    this.#turns.timeout += 1;
    this.#cancelTimeout();
    this.#cancelGrace();
    this.#endsAtMs = null;
    const { clock, policy } = this.#options;
    const { timeoutMs } = policy();
    if (timeoutMs === null) return;
    this.#endsAtMs = Math.round(clock.wall() + timeoutMs);
    this.#cancelTimeout = clock.after(timeoutMs, () => this.#onTimeout());
  }

  /**
   * Starts the timeout of a paused sandbox before its VM runs, since the guest may never answer then. Returns how to
   * stop it; null: it counts already.
   */
  startStoppedTimeout(): (() => void) | null {
    if (this.#endsAtMs !== null) return null;
    this.startTimeout();
    return () => this.stop();
  }

  startIdle(): void {
    this.#turns.idle += 1;
    this.#cancelIdle();
    this.#idle.start(this.#options.policy().idleTimeoutMs);
  }

  /** Restarts the idle time: the sandbox was used. */
  touch(): void {
    this.#idle.touch();
  }

  /** @param what `idle`: the timeout keeps counting */
  stop(what: 'all' | 'idle' = 'all'): void {
    this.#turns.idle += 1;
    this.#cancelIdle();
    this.#idle.stop();
    if (what === 'idle') return;
    this.#turns.timeout += 1;
    this.#cancelTimeout();
    this.#cancelGrace();
    this.#endsAtMs = null;
  }

  #onTimeout(): void {
    const { policy, kill, clock } = this.#options;
    if (policy().onTimeout === 'kill') {
      kill();
      return;
    }
    const to = policy().onTimeout === 'pause' ? 'disk' : 'disk-only';
    let reason = `the pause did not succeed within ${PAUSE_GRACE_MS / 1000} s`;
    this.#cancelGrace = clock.after(PAUSE_GRACE_MS, () => this.#killUnpaused(reason));
    const pause = (): void => {
      void this.#pause('timeout', to, (failure) => {
        reason = failure;
        this.#cancelTimeout = clock.after(RETRY_MS.timeout, pause);
      });
    };
    pause();
  }

  #killUnpaused(reason: string): void {
    const { sandbox, log, kill } = this.#options;
    log.warn('a sandbox is killed: it could not be paused after its timeout', { sandbox, reason });
    kill();
  }

  #onIdle(): void {
    void this.#pause('idle', 'disk', () => {
      // The retry needs another idle period.
      this.#cancelIdle = this.#options.clock.after(RETRY_MS.idle, () => this.startIdle());
    });
  }

  /** Never rejects. */
  async #pause(
    limit: 'timeout' | 'idle',
    to: 'disk' | 'disk-only',
    onFailure: (reason: string) => void,
  ): Promise<void> {
    const { sandbox, log, pause } = this.#options;
    const turn = this.#turns[limit];
    const why = limit === 'timeout' ? 'its timeout' : 'it was idle';
    try {
      if (await pause(to, limit, ['running'])) log.info('a sandbox was paused', { sandbox, why });
    } catch (error) {
      this.pauseReason = null;
      const reason = describeError(error);
      log.warn('a sandbox could not be paused', { sandbox, why, reason });
      if (turn === this.#turns[limit]) onFailure(reason);
    }
  }
}

/** Null: no VM. */
export async function activityOf(supervisor: Supervisor | undefined): Promise<Activity | null> {
  if (supervisor?.vm === undefined) return null;
  const stats = await supervisor.vm.channelStats();
  const onChannel = stats.bytesGuestToHost + stats.bytesHostToGuest;
  const bytes = onChannel + (await supervisor.card.bytes());
  // One connection belongs to the agent itself.
  return { busy: stats.connectionsOpen > 1 || supervisor.modelRequests > 0, bytes };
}

/** The status of a sandbox in an error: a paused one's says why. */
export function statusText(status: SandboxStatus, reason: PauseReason | null): string {
  const why = status === 'paused' && reason !== null ? WHY[reason] : '';
  return `${status}${why}`;
}

const WHY: Readonly<Record<PauseReason, string>> = {
  'host-memory': ' because the memory of the host was short',
  idle: ' because it was idle',
  timeout: ' because its timeout was over',
};
