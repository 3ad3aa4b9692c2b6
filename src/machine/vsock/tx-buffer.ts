import { assert } from '../../base/assert.ts';

/** Equal to the minimum receive window, so that the smallest connection needs one piece. */
const CHUNK_BYTES = 16 * 1024;
/** Empty chunks that are kept for reuse, so that a busy stream makes no garbage. */
const SPARES_MAX = 32;

/** Chunks that no buffer uses; one list per guest. */
export class ChunkPool {
  readonly #spares: Uint8Array[] = [];

  take(): Uint8Array {
    return this.#spares.pop() ?? new Uint8Array(CHUNK_BYTES);
  }

  give(chunk: Uint8Array): void {
    if (this.#spares.length < SPARES_MAX) this.#spares.push(chunk);
  }
}

/**
 * Bytes from the guest that a host socket did not take yet, in chunks, at most the connection's receive window. Payload
 * is copied only here; a host that keeps up never gets here.
 */
export class TxBuffer {
  readonly #bytesMax: number;
  readonly #pool: ChunkPool;
  readonly #chunks: Uint8Array[] = [];
  /** Offset of the oldest byte in the first chunk. */
  #start = 0;
  #length = 0;

  /** @param bytesMax the receive window; credit must keep pushes within it */
  constructor(bytesMax: number, pool: ChunkPool) {
    this.#bytesMax = bytesMax;
    this.#pool = pool;
  }

  get length(): number {
    return this.#length;
  }

  push(bytes: Uint8Array): void {
    assert(this.#length + bytes.length <= this.#bytesMax, 'credit bounds the tx buffer');
    for (let from = 0; from < bytes.length; ) {
      const at = (this.#start + this.#length) % CHUNK_BYTES;
      let last = this.#chunks.at(-1);
      if (last === undefined || at === 0) {
        last = this.#pool.take();
        this.#chunks.push(last);
      }
      const piece = bytes.subarray(from, from + CHUNK_BYTES - at);
      last.set(piece, at);
      this.#length += piece.length;
      from += piece.length;
    }
  }

  /** The oldest contiguous bytes. Valid until the next call. */
  head(): Uint8Array {
    const [first = EMPTY] = this.#chunks;
    return first.subarray(this.#start, Math.min(this.#start + this.#length, CHUNK_BYTES));
  }

  /** Drops the oldest `count` bytes. */
  consume(count: number): void {
    assert(count <= this.#length, 'only held bytes are consumed');
    this.#length -= count;
    this.#start += count;
    while (this.#start >= CHUNK_BYTES || (this.#length === 0 && this.#chunks.length > 0)) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) this.#pool.give(chunk);
      this.#start = this.#length === 0 ? 0 : this.#start - CHUNK_BYTES;
    }
  }
}

const EMPTY = new Uint8Array(0);
