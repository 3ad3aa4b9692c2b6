/**
 * A connection to the guest's operations that is opened before it is needed (I/O): a request on it costs the guest only
 * the request, not the connection, which is half of a short operation.
 *
 *     open ─► dial ─► held, its `OK <n>` read ─── take ─► the caller's, who sends a request
 *              ▲             └─ the guest ends it (after 10 s without a request)
 *              └─────────────┘
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import type { Dial } from './dial.ts';
import { GUEST_LIMITS } from './limits.ts';

/** Minimum time between two dials in milliseconds, for guests that end each connection at once. */
export const STANDBY_GAP_MS = 5_000;

export class Standby {
  readonly #dial: Dial;
  readonly #clock: Clock;
  #held: HeldStream | undefined;
  #isWanted = false;
  #dialledMs = Number.NEGATIVE_INFINITY;
  #cancelRenewal: () => void = () => undefined;

  constructor(dial: Dial, clock: Clock) {
    this.#dial = dial;
    this.#clock = clock;
  }

  /** Keeps a connection open from now on, until `take` or `close`. Idempotent. */
  open(): void {
    if (this.#isWanted) return;
    this.#isWanted = true;
    void this.#connect();
  }

  /** Hands over the connection, which flows from the next tick on; undefined if there is none. */
  take(): Duplex | undefined {
    const stream = this.#held?.release();
    this.#stop();
    return stream?.resume();
  }

  /** Idempotent. */
  close(): void {
    this.#held?.release().destroy();
    this.#stop();
  }

  #stop(): void {
    this.#held = undefined;
    this.#isWanted = false;
    this.#cancelRenewal();
  }

  /** Never rejects. */
  async #connect(): Promise<void> {
    this.#dialledMs = this.#clock.now();
    let stream: Duplex;
    try {
      stream = await this.#dial();
    } catch (error) {
      ignore(error, 'the request dials itself, and reports it');
      this.#renew();
      return;
    }
    if (!this.#isWanted || this.#held !== undefined) {
      stream.on('error', (error) => ignore(error, 'the connection is no longer wanted'));
      stream.destroy();
      return;
    }
    const held = new HeldStream(stream, () => {
      if (this.#held !== held) return;
      this.#held = undefined;
      this.#renew();
    });
    this.#held = held;
  }

  #renew(): void {
    if (!this.#isWanted) return;
    this.#cancelRenewal();
    const waitMs = Math.max(0, this.#dialledMs + STANDBY_GAP_MS - this.#clock.now());
    this.#cancelRenewal = this.#clock.after(waitMs, () => void this.#connect());
  }
}

/** Reads the stream, since otherwise its end would not be noticed; the only expected data is the channel's `OK <n>`. */
class HeldStream {
  readonly #stream: Duplex;
  readonly #lost: () => void;
  #received = Buffer.alloc(0);

  constructor(stream: Duplex, lost: () => void) {
    this.#stream = stream;
    this.#lost = lost;
    stream.on('data', this.#onData);
    for (const event of ENDS) stream.on(event, this.#onEnd);
  }

  /** Returns the stream as if it had not been read. */
  release(): Duplex {
    const stream = this.#stream;
    stream.off('data', this.#onData);
    for (const event of ENDS) stream.off(event, this.#onEnd);
    stream.pause();
    if (this.#received.length > 0) stream.unshift(this.#received);
    // The new owner listens from now on; until then an error must not crash this process.
    stream.once('error', (error) => ignore(error, 'reported by the request on it'));
    return stream;
  }

  readonly #onData = (bytes: Buffer): void => {
    this.#received = Buffer.concat([this.#received, bytes]);
    if (this.#received.length > GUEST_LIMITS.handshakeLineBytesMax) this.#onEnd();
  };

  readonly #onEnd = (): void => {
    this.release().destroy();
    this.#lost();
  };
}

const ENDS = ['end', 'close', 'error'] as const;
