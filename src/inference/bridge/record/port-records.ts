/**
 * The request records of one port. Refused requests cost a sandbox nothing, so their records are rate limited: those
 * beyond the rate are only counted, and the sandbox's next record has their number.
 */
import type { Clock } from '../../../base/clock.ts';
import { TokenBucket } from '../../../base/token-bucket.ts';
import type { RefusedRequest, RequestLog, SentRequest } from './request-record.ts';

export const REFUSAL_RATE = { size: 20, refillPerSecond: 1 } as const;

/** Code of a final record that only has the number of omitted ones. */
export const LEFT_OUT = 'left_out';

type WithoutCount<T> = Omit<T, 'leftOut'>;

export class PortRecords {
  readonly #log: RequestLog | undefined;
  readonly #clock: Clock;
  readonly #rate: TokenBucket;
  #leftOut = 0;
  #last: WithoutCount<RefusedRequest> | undefined;

  constructor(log: RequestLog | undefined, clock: Clock) {
    this.#log = log;
    this.#clock = clock;
    this.#rate = new TokenBucket(REFUSAL_RATE, clock.now());
  }

  sent(request: WithoutCount<SentRequest>): void {
    this.#log?.sent({ ...request, leftOut: this.#takeLeftOut() });
  }

  refused(request: WithoutCount<RefusedRequest>): void {
    if (this.#rate.waitForMs(1, this.#clock.now()) > 0) {
      this.#leftOut += 1;
      this.#last = request;
      return;
    }
    this.#rate.spend(1);
    this.#log?.refused({ ...request, leftOut: this.#takeLeftOut() });
  }

  /** Writes a final record if no other will come to report what was omitted. */
  close(): void {
    if (this.#last === undefined) return;
    const { sandboxId, dialect } = this.#last;
    const none = { operation: LEFT_OUT, model: null, stream: false, status: 0, totalMs: 0 };
    const leftOut = this.#takeLeftOut();
    this.#log?.refused({ sandboxId, dialect, ...none, code: LEFT_OUT, leftOut });
  }

  #takeLeftOut(): number {
    const count = this.#leftOut;
    this.#leftOut = 0;
    this.#last = undefined;
    return count;
  }
}
