/** Reads the body of a request into bounded memory (io). */
import type { IncomingMessage } from 'node:http';
import type { FairShareLimits, Hold } from '../../../base/fairness/fair-share.ts';
import { accepted, type Checked, refused } from '../../../base/http/refusal.ts';
import { MIB } from '../../../base/units.ts';
import { BridgeError } from '../errors.ts';

/**
 * Memory in bytes for the bodies of all sandboxes, from arrival until an upstream answers. A sandbox can always send
 * bodies of its guaranteed size at once, whatever others do. `bodyTotalBytesMax` of its port is a further limit.
 */
export const BODY_MEMORY: FairShareLimits = { sumMax: 256 * MIB, ownMax: 256 * MIB, guaranteed: MIB, places: 128 };

const FIRST_CAPACITY_BYTES = 4 * 1024;
const LARGE_BYTES = 128 * 1024;

/**
 * A request body in one growing buffer. Chunks are copied, not kept: otherwise a guest that sends chunks of one byte
 * would cost a hundred bytes of memory for each.
 */
export class RequestBody {
  readonly #reserveBytes: (bytes: number) => Hold | undefined;
  readonly #bytesMax: number;
  #hold: Hold | undefined;
  #inUse: Promise<void> | undefined;
  #buffer = Buffer.alloc(0);
  #length = 0;
  /** Bytes reserved for the body; its buffer may have moved to a thread. */
  #capacity = 0;
  #declared = 0;

  /** @param reserve reserves memory; returns undefined if none is left */
  constructor(reserve: (bytes: number) => Hold | undefined, bytesMax: number) {
    this.#reserveBytes = reserve;
    this.#bytesMax = bytesMax;
  }

  /** Resolves at the end of the body. Call `release` afterwards in any case. */
  read(request: IncomingMessage, signal: AbortSignal): Promise<Checked<Buffer>> {
    this.#declared = Number(request.headers['content-length'] ?? 0);
    if (this.#declared > this.#bytesMax) return Promise.resolve(this.#tooLarge());
    return new Promise((resolve, reject) => {
      const stop = (): void => {
        request.removeAllListeners('data');
        signal.removeEventListener('abort', onAbort);
      };
      const onAbort = (): void => {
        stop();
        reject(signal.reason);
      };
      if (signal.aborted) return onAbort();
      signal.addEventListener('abort', onAbort, { once: true });
      request.on('data', (piece: Buffer) => {
        const added = this.#add(piece);
        if (added.ok) return;
        stop();
        resolve(added);
      });
      request.once('end', () => {
        stop();
        resolve(accepted(this.#buffer.subarray(0, this.#length)));
      });
      request.once('error', () => {
        stop();
        reject(new BridgeError('cancelled', 'the guest aborted its request'));
      });
    });
  }

  /** Reserves memory for all bodies of which one goes upstream in place of this one. @param lengths in bytes */
  replace(lengths: readonly number[]): Checked<void> {
    if (lengths.some((bytes) => bytes > this.#bytesMax)) return this.#tooLarge();
    const sum = lengths.reduce((all, bytes) => all + bytes, this.#capacity);
    return this.#reserve(sum) ? accepted(undefined) : memoryFull();
  }

  keepUntilSettled(work: Promise<unknown>): void {
    const settled = Promise.withResolvers<void>();
    work.then(
      () => settled.resolve(),
      () => settled.resolve(),
    );
    this.#inUse = settled.promise;
  }

  /** Returns the memory to the budget. Idempotent. */
  release(): void {
    const hold = this.#hold;
    this.#hold = undefined;
    this.#buffer = Buffer.alloc(0);
    if (this.#inUse === undefined) hold?.release();
    else void this.#inUse.then(() => hold?.release());
  }

  #add(piece: Buffer): Checked<void> {
    const length = this.#length + piece.length;
    if (length > this.#bytesMax) return this.#tooLarge();
    if (length > this.#buffer.length) {
      // A large body gets its declared size at once, since doubling leaves garbage.
      const large = length > LARGE_BYTES ? this.#declared : 0;
      const wanted = Math.max(length, 2 * this.#buffer.length, FIRST_CAPACITY_BYTES, large);
      const capacity = Math.min(wanted, this.#bytesMax);
      if (!this.#reserve(capacity)) return memoryFull();
      this.#capacity = capacity;
      const grown = Buffer.allocUnsafeSlow(capacity);
      this.#buffer.copy(grown, 0, 0, this.#length);
      this.#buffer = grown;
    }
    piece.copy(this.#buffer, this.#length);
    this.#length = length;
    return accepted(undefined);
  }

  #reserve(bytes: number): boolean {
    if (this.#hold !== undefined) return this.#hold.resize(bytes);
    this.#hold = this.#reserveBytes(bytes);
    return this.#hold !== undefined;
  }

  #tooLarge(): Checked<never> {
    const message = `The body is larger than ${this.#bytesMax} bytes.`;
    return refused(413, 'body_too_large', message);
  }
}

function memoryFull(): Checked<never> {
  const message = 'Too many large requests are in flight. Retry later.';
  return refused(429, 'body_memory_full', message, { retryAfterSeconds: 1 });
}
