import { Listeners } from '../base/listeners.ts';
import type { LogTail } from './driver.ts';

/** Keeps the last bytes of an endless stream. */
export class ByteTail implements LogTail {
  readonly #ring: Buffer;
  readonly #listeners = new Listeners<void>();
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
    this.#listeners.emit();
  }

  get total(): number {
    return this.#total;
  }

  onWrite(listener: () => void): () => void {
    return this.#listeners.listen(listener);
  }

  /** The number of listeners. */
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
