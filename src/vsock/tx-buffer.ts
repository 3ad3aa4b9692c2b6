import { assert } from '../base/assert.ts';

const FIRST_BYTES = 4 * 1024;

/**
 * Bytes from the guest that a host socket did not take yet: a ring that grows by doubling up to the
 * connection's receive window, and is given back as soon as it is empty. This is the only place where
 * payload is copied; a host that keeps up never gets here.
 */
export class TxBuffer {
  readonly #bytesMax: number;
  #ring: Uint8Array = new Uint8Array(0);
  #start = 0;
  #length = 0;

  /** @param bytesMax the receive window; credit must keep pushes within it. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get length(): number {
    return this.#length;
  }

  push(bytes: Uint8Array): void {
    assert(this.#length + bytes.length <= this.#bytesMax, 'credit bounds the tx buffer');
    if (this.#length + bytes.length > this.#ring.length) this.#grow(this.#length + bytes.length);
    const at = (this.#start + this.#length) % this.#ring.length;
    const first = Math.min(bytes.length, this.#ring.length - at);
    this.#ring.set(bytes.subarray(0, first), at);
    this.#ring.set(bytes.subarray(first), 0);
    this.#length += bytes.length;
  }

  /** The oldest bytes, as many as lie together. Valid until the next call. */
  head(): Uint8Array {
    const end = Math.min(this.#start + this.#length, this.#ring.length);
    return this.#ring.subarray(this.#start, end);
  }

  /** Drops the oldest `count` bytes. */
  consume(count: number): void {
    assert(count <= this.#length, 'only held bytes are consumed');
    this.#length -= count;
    if (this.#length === 0) {
      this.#ring = new Uint8Array(0);
      this.#start = 0;
    } else this.#start = (this.#start + count) % this.#ring.length;
  }

  #grow(needed: number): void {
    let size = Math.max(FIRST_BYTES, this.#ring.length);
    while (size < needed) size *= 2;
    const ring = new Uint8Array(Math.min(size, Math.max(needed, this.#bytesMax)));
    const head = this.head();
    ring.set(head);
    ring.set(this.#ring.subarray(0, this.#length - head.length), head.length);
    this.#ring = ring;
    this.#start = 0;
  }
}
