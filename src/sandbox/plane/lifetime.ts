/**
 * Timeout and idle timeout of a sandbox. Both count while it runs; a failed pause is retried. The timeout is a
 * deadline: a sandbox that is not paused when its grace period is over is killed.
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
  /** The sandbox's id, for the log. */
  readonly sandbox: string;
  policy(): Pick<LifetimePolicy, 'timeoutMs' | 'onTimeout' | 'idleTimeoutMs'>;
  /** `null` if unknown at the moment. */
  activity(): Promise<Activity | null>;
  kill(): void;
  /**
   * Notes the reason once the pause's turn has come.
   * @param from states to pause from: paused in memory, or running. @returns false if the sandbox is in neither
   */
  pause(
    to: 'disk' | 'disk-only',
    reason: PauseReason | null,
    from: readonly ('running' | 'paused')[],
  ): Promise<boolean>;
}

/**
 * Time after the timeout within which `onTimeout: pause` must succeed; then the sandbox is killed. A pause needs
 * answers of the guest and the VMM, and they may never come.
 */
export const PAUSE_GRACE_MS = 120_000;
/** Delay before a failed pause is retried: within the grace period, and for an idle sandbox. */
const RETRY_MS = { timeout: 10_000, idle: 60_000 } as const;

export class Lifetime {
  readonly #options: LifetimeOptions;
  readonly #idle: IdleWatch;
  #endsAtMs: number | null = null;
  #cancelTimeout: () => void = () => undefined;
  #cancelGrace: () => void = () => undefined;
  #cancelIdle: () => void = () => undefined;
  /** Incremented by each start and stop, so that a pause that fails later is not retried. */
  readonly #turns = { timeout: 0, idle: 0 };
  /** Why the sandbox is paused, if not by request. */
  pauseReason: PauseReason | null = null;
  #leftMs: number | null = null;

  constructor(options: LifetimeOptions) {
    this.#options = options;
    const { clock, activity } = options;
    this.#idle = new IdleWatch({ clock, read: activity, onIdle: () => this.#onIdle() });
  }

  /** Wall clock; `null` without a timeout, or while it does not count. */
  get endsAtMs(): number | null {
    return this.#endsAtMs;
  }

  /** Rest of a timeout that the daemon's stop has interrupted, milliseconds; `null`: none, or it counts anew. */
  get timeoutLeftMs(): number | null {
    if (this.pauseReason !== 'daemon-stopped') return null;
    if (this.#endsAtMs === null) return this.#leftMs;
    return Math.max(1, Math.round(this.#endsAtMs - this.#options.clock.wall()));
  }

  /** Of a sandbox that is paused to disk. */
  setPaused(reason: PauseReason | null, timeoutLeftMs: number | null): void {
    this.pauseReason = reason;
    this.#leftMs = timeoutLeftMs;
  }

  /** The owner has given another timeout, which counts from the resume. */
  forgetLeft(): void {
    this.#leftMs = null;
  }

  /** Milliseconds since its last use; traffic alone counts only if there is an idle timeout. */
  get idleMs(): number {
    return this.#idle.idleMs;
  }

  /** Whether it has an open operation or model request, or that is unknown. */
  async isBusy(): Promise<boolean> {
    return (await this.#options.activity())?.busy ?? true;
  }

  /**
   * Pauses to disk to free host memory.
   * @returns false if there is no VM any more. @throws SandboxError if it could not be paused
   */
  async pauseForMemory(): Promise<boolean> {
    return await this.#pauseNow('host-memory', ['running', 'paused']);
  }

  /**
   * Pauses to disk for the daemon's stop. Only a sandbox that runs gets the reason, by which the next daemon resumes it.
   * @returns false if there is no VM any more. @throws SandboxError if it could not be paused
   */
  async pauseForStop(): Promise<boolean> {
    if (await this.#pauseNow('daemon-stopped', ['running'])) return true;
    return await this.#pauseNow(null, ['paused']);
  }

  async #pauseNow(reason: PauseReason | null, from: readonly ('running' | 'paused')[]): Promise<boolean> {
    try {
      return await this.#options.pause('disk', reason, from);
    } catch (error) {
      this.pauseReason = null;
      throw error;
    }
  }

  /** @param endsAtMs deadline of a timeout that goes on, wall clock. Default, or null: the timeout begins */
  start(endsAtMs?: number | null): void {
    const { timeoutLeftMs } = this;
    const goesOn = timeoutLeftMs === null ? null : this.#options.clock.wall() + timeoutLeftMs;
    this.pauseReason = null;
    this.startTimeout(endsAtMs ?? goesOn);
    this.startIdle();
  }

  /** After a pause in memory; a timeout that a full disk did not stop keeps its deadline. */
  continue(): void {
    this.pauseReason = null;
    if (this.#endsAtMs === null) this.startTimeout();
    this.startIdle();
  }

  startTimeout(endsAtMs: number | null = null): void {
    this.#turns.timeout += 1;
    this.#leftMs = null;
    this.#cancelTimeout();
    this.#cancelGrace();
    this.#endsAtMs = null;
    const { clock, policy } = this.#options;
    const { timeoutMs } = policy();
    if (timeoutMs === null) return;
    const now = clock.wall();
    this.#endsAtMs = endsAtMs ?? Math.round(now + timeoutMs);
    const leftMs = endsAtMs === null ? timeoutMs : Math.max(0, endsAtMs - now);
    this.#cancelTimeout = clock.after(leftMs, () => this.#onTimeout());
  }

  /**
   * Starts the timeout of a paused sandbox before its VM runs, since the guest may then never answer. Returns a
   * function that stops it; `null` if it counts already.
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

  touch(): void {
    this.#idle.touch();
  }

  /** @param what `idle`: the timeout keeps counting */
  stop(what: 'all' | 'idle' = 'all'): void {
    this.#turns.idle += 1;
    this.#cancelIdle();
    this.#idle.stop();
    if (what === 'idle') return;
    this.#leftMs = this.timeoutLeftMs;
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
      // Paused while its timeout counts: a full disk has stopped it.
      if (await pause(to, limit, limit === 'timeout' ? ['running', 'paused'] : ['running']))
        log.info('a sandbox was paused', { sandbox, why });
    } catch (error) {
      this.pauseReason = null;
      const reason = describeError(error);
      log.warn('a sandbox could not be paused', { sandbox, why, reason });
      if (turn === this.#turns[limit]) onFailure(reason);
    }
  }
}

/** `null` without a VM. */
export async function activityOf(supervisor: Supervisor | undefined): Promise<Activity | null> {
  if (supervisor?.vm === undefined) return null;
  const stats = await supervisor.vm.channelStats();
  const onChannel = stats.bytesGuestToHost + stats.bytesHostToGuest;
  const bytes = onChannel + (await supervisor.card.bytes());
  // One connection belongs to the agent itself.
  return { busy: stats.connectionsOpen > 1 || supervisor.modelRequests > 0, bytes };
}

/** A sandbox's status in an error; for a paused one with the reason. */
export function statusText(status: SandboxStatus, reason: PauseReason | null): string {
  const why = status === 'paused' && reason !== null ? WHY[reason] : '';
  return `${status}${why}`;
}

const WHY: Readonly<Record<PauseReason, string>> = {
  'daemon-stopped': ' because the daemon was stopped',
  'host-memory': ' because the memory of the host was short',
  idle: ' because it was idle',
  timeout: ' because its timeout was over',
};
