/** Collects an answer whose length a guest decides: an output, a listing. All of them share one bounded memory. */
import { FairShare, type Hold } from '../../base/fairness/fair-share.ts';
import { KIB, MIB } from '../../base/units.ts';

/** Bytes of the buffers of all such answers. An answer that is being sent counts until it is. */
const SHARES = { sumMax: 256 * MIB, ownMax: 64 * MIB, guaranteed: MIB, places: 64 } as const;
const FIRST_BYTES = 4 * KIB;

/** The memory for the answers of one server. */
export class AnswerMemory {
  readonly #share = new FairShare(SHARES);

  /** @param bytesMax of this answer */
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

  /** @returns how many bytes of the part were kept: fewer than it has if there is no room */
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
   * Idempotent; the content is not to be used any more. Nothing is kept from now on: a client may leave before the
   * first byte comes.
   */
  release(): void {
    this.#isReleased = true;
    this.#hold?.release();
  }

  /** Doubles, or takes what is needed, or stays as it is. */
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
