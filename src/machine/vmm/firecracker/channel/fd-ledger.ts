/**
 * The descriptors of a thread, in memory that outlives it: the kernel closes a process's descriptors, not a thread's,
 * so after a crash the main thread closes them. Otherwise the peers would wait for an end of file that never comes.
 */
import { closeFd } from '../../../../sys/fd.ts';

/** Linux's default for the highest number (`fs.nr_open`). */
const FDS_MAX = 1 << 20;
const BITS = 32;

export class FdLedger {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;

  /** @param shared the other thread's ledger. Default: a new one */
  constructor(shared: SharedArrayBuffer = new SharedArrayBuffer(FDS_MAX / 8)) {
    this.shared = shared;
    this.#words = new Int32Array(shared);
  }

  /** @returns false if the number is too high to be recorded */
  add(fd: number): boolean {
    if (fd >= FDS_MAX) return false;
    Atomics.or(this.#words, Math.floor(fd / BITS), 1 << (fd % BITS));
    return true;
  }

  forget(fd: number): void {
    Atomics.and(this.#words, Math.floor(fd / BITS), ~(1 << (fd % BITS)));
  }

  /** A crash in between leaks the descriptor, which is better than closing another one. */
  close(fd: number): void {
    this.forget(fd);
    closeFd(fd);
  }

  /** Call it after the thread's end. */
  closeAll(): void {
    for (const fd of this.all()) this.close(fd);
  }

  all(): number[] {
    const found: number[] = [];
    for (const [index, word] of this.#words.entries()) {
      if (word === 0) continue;
      for (let bit = 0; bit < BITS; bit += 1) {
        if ((word & (1 << bit)) !== 0) found.push(index * BITS + bit);
      }
    }
    return found;
  }
}
