/** Waits for the next daemon at an address, after the loss of one that this client had reached. */
import { type Clock, sleep, systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import { ClientError } from './errors.ts';

export interface DaemonWait {
  /** How long a request waits for the next daemon. Default: 0, not at all. */
  readonly waitMs?: number | undefined;
  /** Called once for each loss, when a request begins to wait. */
  readonly onLoss?: (() => void) | undefined;
  /** Ends all waiting. */
  readonly cancelled?: AbortSignal | undefined;
}

export interface Attempt {
  /** True: it may run again although a daemon may have begun with it. */
  readonly isIdempotent: boolean;
  readonly signal?: AbortSignal | undefined;
}

const LIMITS = {
  pollMs: 100,
  /** For answers that were lost: the request itself may be what ends the daemon. */
  lostAnswersMax: 3,
} as const;

/** No daemon got the whole request. Other causes, such as a time limit, may come after it was sent. */
const UNSENT: ReadonlySet<unknown> = new Set(['ENOENT', 'ECONNREFUSED', 'EPIPE']);

export class NextDaemon {
  readonly #options: DaemonWait;
  readonly #clock: Pick<Clock, 'now'>;
  readonly #sleep: typeof sleep;
  readonly #closed = new AbortController();
  /** False again once a wait has run out, so that the following requests fail at once. */
  #isReached = false;
  #isLost = false;

  constructor(options: DaemonWait, clock: Pick<Clock, 'now'> = systemClock, wait = sleep) {
    this.#options = options;
    this.#clock = clock;
    this.#sleep = wait;
  }

  /** Call this when the daemon answers. */
  onAnswer(): void {
    this.#isReached = true;
    this.#isLost = false;
  }

  /** @throws the attempt's error if it may not be repeated, or if no daemon came in time; SandboxError `cancelled` */
  async retry<T>(attempt: () => Promise<T>, { isIdempotent, signal }: Attempt): Promise<T> {
    const { waitMs = 0, onLoss } = this.#options;
    let giveUpMs: number | undefined;
    for (let lostAnswers = 0; ; ) {
      try {
        return await attempt();
      } catch (error) {
        const isLostAnswer = isIdempotent && errorCode(error) === 'daemon_lost';
        if (isLostAnswer) lostAnswers += 1;
        if (!this.#isReached || !(isLostAnswer || isUnsent(error)) || lostAnswers > LIMITS.lostAnswersMax) throw error;
        giveUpMs ??= this.#clock.now() + waitMs;
        if (this.#clock.now() >= giveUpMs) {
          this.#isReached = false;
          throw error;
        }
        ignore(error, 'the next daemon gets the request');
      }
      if (!this.#isLost) onLoss?.();
      this.#isLost = true;
      await this.#pause(signal);
    }
  }

  close(): void {
    this.#closed.abort();
  }

  async #pause(signal: AbortSignal | undefined): Promise<void> {
    const { cancelled } = this.#options;
    const ends = [this.#closed.signal, cancelled, signal].filter((one) => one !== undefined);
    const end = AbortSignal.any(ends);
    await this.#sleep(LIMITS.pollMs, end).catch((cause: unknown) => {
      throw new SandboxError('cancelled', 'the request was canceled', { cause });
    });
  }
}

function isUnsent(error: unknown): boolean {
  return error instanceof ClientError && UNSENT.has(errorCode(error.cause));
}
