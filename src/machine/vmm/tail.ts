import { Listeners } from '../../base/listeners.ts';
import type { LogTail } from './driver.ts';

/** Initial size: most guests write nothing to their console. */
const FIRST_BYTES = 64;

/** Keeps the last bytes of an endless stream. Its memory grows with the kept bytes. */
export class ByteTail implements LogTail {
  readonly #bytesMax: number;
  #ring: Buffer;
  readonly #listeners = new Listeners<void>();
  #total = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
    this.#ring = Buffer.alloc(Math.min(bytesMax, FIRST_BYTES));
  }

  push(bytes: Uint8Array): void {
    this.#growTo(this.#total + bytes.length);
    const size = this.#ring.length;
    const kept = bytes.subarray(Math.max(0, bytes.length - size));
    const at = (this.#total + bytes.length - kept.length) % size;
    const first = Math.min(kept.length, size - at);
    this.#ring.set(kept.subarray(0, first), at);
    this.#ring.set(kept.subarray(first), 0);
    this.#total += bytes.length;
    this.#listeners.emit();
  }

  /** A ring below its maximum has the stream from its beginning. */
  #growTo(bytes: number): void {
    const { length } = this.#ring;
    if (bytes <= length || length === this.#bytesMax) return;
    const grown = Buffer.alloc(Math.min(this.#bytesMax, Math.max(bytes, 2 * length)));
    grown.set(this.#ring.subarray(0, this.#total));
    this.#ring = grown;
  }

  get total(): number {
    return this.#total;
  }

  onWrite(listener: () => void): () => void {
    return this.#listeners.listen(listener);
  }

  get readers(): number {
    return this.#listeners.size;
  }

  after(position: number): Buffer {
    const size = this.#ring.length;
    const from = Math.min(Math.max(position, this.#total - size, 0), this.#total);
    const [begin, length] = [from % size, this.#total - from];
    const first = this.#ring.subarray(begin, begin + Math.min(length, size - begin));
    return Buffer.concat([first, this.#ring.subarray(0, length - first.length)]);
  }

  /** The kept bytes as UTF-8; invalid bytes become U+FFFD. */
  text(): string {
    return this.after(0).toString('utf8');
  }
}
