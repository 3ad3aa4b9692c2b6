/** Reads the body of a request into bounded memory (io). */
import type { IncomingMessage } from 'node:http';
import { BridgeError } from './errors.ts';
import { accepted, type Checked, refused } from './refusal.ts';

/** The memory budget for all bodies of a port. */
export class BodyMemory {
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  reserve(bytes: number): boolean {
    if (this.#bytes + bytes > this.#bytesMax) return false;
    this.#bytes += bytes;
    return true;
  }

  release(bytes: number): void {
    this.#bytes -= bytes;
  }
}

const FIRST_CAPACITY_BYTES = 4 * 1024;
const LARGE_BYTES = 128 * 1024;

/**
 * One growing buffer. Pieces are copied, not kept: otherwise a guest that sends chunks of one byte would cost
 * a hundred bytes of memory for each.
 */
export class RequestBody {
  readonly #memory: BodyMemory;
  readonly #bytesMax: number;
  #buffer = Buffer.alloc(0);
  #length = 0;
  #declared = 0;

  constructor(memory: BodyMemory, bytesMax: number) {
    this.#memory = memory;
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

  /** Returns the memory to the budget. Idempotent. */
  release(): void {
    this.#memory.release(this.#buffer.length);
    this.#buffer = Buffer.alloc(0);
  }

  #add(piece: Buffer): Checked<void> {
    const length = this.#length + piece.length;
    if (length > this.#bytesMax) return this.#tooLarge();
    if (length > this.#buffer.length) {
      // A body that turns out large gets its declared size at once, since doubling leaves garbage.
      const large = length > LARGE_BYTES ? this.#declared : 0;
      const wanted = Math.max(length, 2 * this.#buffer.length, FIRST_CAPACITY_BYTES, large);
      const capacity = Math.min(wanted, this.#bytesMax);
      if (!this.#memory.reserve(capacity - this.#buffer.length)) {
        const message = 'This sandbox has too many large requests in flight. Retry later.';
        return refused(429, 'body_memory_full', message, { retryAfterSeconds: 1 });
      }
      const grown = Buffer.allocUnsafeSlow(capacity);
      this.#buffer.copy(grown, 0, 0, this.#length);
      this.#buffer = grown;
    }
    piece.copy(this.#buffer, this.#length);
    this.#length = length;
    return accepted(undefined);
  }

  #tooLarge(): Checked<never> {
    const message = `The body is larger than ${this.#bytesMax} bytes.`;
    return refused(413, 'body_too_large', message);
  }
}
