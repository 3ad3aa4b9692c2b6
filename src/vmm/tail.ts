/** Keeps the last bytes of a stream that may be endless; older ones are overwritten. */
export class ByteTail {
  readonly #ring: Buffer;
  /** Bytes ever pushed. */
  #total = 0;

  constructor(bytesMax: number) {
    this.#ring = Buffer.alloc(bytesMax);
  }

  push(bytes: Uint8Array): void {
    const size = this.#ring.length;
    const kept = bytes.subarray(Math.max(0, bytes.length - size));
    const at = (this.#total + bytes.length - kept.length) % size;
    const first = Math.min(kept.length, size - at);
    this.#ring.set(kept.subarray(0, first), at);
    this.#ring.set(kept.subarray(first), 0);
    this.#total += bytes.length;
  }

  /** As UTF-8; what is no text becomes U+FFFD. */
  text(): string {
    const size = this.#ring.length;
    if (this.#total <= size) return this.#ring.toString('utf8', 0, this.#total);
    const at = this.#total % size;
    return Buffer.concat([this.#ring.subarray(at), this.#ring.subarray(0, at)]).toString('utf8');
  }
}
