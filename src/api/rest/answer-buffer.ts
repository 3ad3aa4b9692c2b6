/**
 * Collects an answer whose length a guest decides, such as an output or a listing. All of them share one bounded
 * memory.
 */
import { FairShare, type Hold } from '../../base/fairness/fair-share.ts';
import { KIB, MIB } from '../../base/units.ts';

/** Memory in bytes for all such answers. An answer counts until it is sent. */
const SHARES = { sumMax: 256 * MIB, ownMax: 64 * MIB, guaranteed: MIB, places: 64 } as const;
const FIRST_BYTES = 4 * KIB;

export class AnswerMemory {
  readonly #share = new FairShare(SHARES);

  buffer(sandboxId: string, bytesMax: number): AnswerBuffer {
    return new AnswerBuffer(bytesMax, (bytes) => this.#share.take(sandboxId, bytes));
  }
}

/** Copies chunks together, so that a guest that sends single bytes costs bytes, not objects. */
export class AnswerBuffer {
  readonly #bytesMax: number;
  readonly #take: (bytes: number) => Hold | undefined;
  #hold: Hold | undefined;
  #bytes = Buffer.alloc(0);
  #length = 0;
  #isReleased = false;

  constructor(bytesMax: number, take: (bytes: number) => Hold | undefined) {
    this.#bytesMax = bytesMax;
    this.#take = take;
  }

  /** @returns number of kept bytes, less than the length of `part` if there is no room */
  append(part: Buffer): number {
    if (this.#length + part.length > this.#bytes.length) this.#grow(this.#length + part.length);
    const kept = part.copy(this.#bytes, this.#length);
    this.#length += kept;
    return kept;
  }

  /** The collected bytes, without a copy. */
  content(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  /**
   * Idempotent. The content must not be used afterwards, and nothing more is kept: a client may leave before the first
   * byte arrives.
   */
  release(): void {
    this.#isReleased = true;
    this.#hold?.release();
  }

  #grow(needed: number): void {
    const sizes = [Math.max(FIRST_BYTES, needed, 2 * this.#bytes.length), needed];
    for (const wanted of sizes) {
      const size = Math.min(wanted, this.#bytesMax);
      if (size <= this.#bytes.length) return;
      if (!this.#reserve(size)) continue;
      const larger = Buffer.alloc(size);
      this.#bytes.copy(larger, 0, 0, this.#length);
      this.#bytes = larger;
      return;
    }
  }

  #reserve(bytes: number): boolean {
    if (this.#isReleased) return false;
    if (this.#hold !== undefined) return this.#hold.resize(bytes);
    this.#hold = this.#take(bytes);
    return this.#hold !== undefined;
  }
}
