import { SEGMENTS_MAX } from './limits.ts';
import type { Chain, LocalMemory } from './ring-memory.ts';

/**
 * Pieces of guest memory, in order: at the same time a list for JavaScript and the array of struct iovec that readv(2)
 * and writev(2) take. Reused; nothing is allocated per packet.
 */
export class Segments {
  /** `SEGMENTS_MAX` × { u64 address, u64 length }, little-endian. */
  readonly iovec: ArrayBuffer = new ArrayBuffer(SEGMENTS_MAX * 16);
  readonly #words = new Uint32Array(this.iovec);
  readonly #regions: (LocalMemory | undefined)[] = new Array(SEGMENTS_MAX).fill(undefined);
  readonly #offsets = new Float64Array(SEGMENTS_MAX);
  #count = 0;
  #bytes = 0;

  get count(): number {
    return this.#count;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get free(): number {
    return SEGMENTS_MAX - this.#count;
  }

  clear(): void {
    this.#count = 0;
    this.#bytes = 0;
  }

  /** Adds `length` bytes (< 2³²) at `offset` of a region; the caller has checked that they lie in it. */
  push(region: LocalMemory, offset: number, length: number): void {
    const index = this.#count;
    const address = region.hostAddress + offset;
    this.#words[index * 4] = address >>> 0;
    this.#words[index * 4 + 1] = Math.floor(address / 0x1_0000_0000);
    this.#words[index * 4 + 2] = length;
    this.#words[index * 4 + 3] = 0;
    this.#regions[index] = region;
    this.#offsets[index] = offset;
    this.#count = index + 1;
    this.#bytes += length;
  }

  /** Adds bytes `from` … `from + length` of a chain that is at least that long. */
  pushChain(chain: Chain, from: number, length: number): void {
    let skip = from;
    let left = length;
    for (let index = 0; left > 0; index += 1) {
      const size = chain.lengths[index] ?? 0;
      if (skip >= size) {
        skip -= size;
        continue;
      }
      const piece = Math.min(size - skip, left);
      this.push(chain.region(index), (chain.offsets[index] ?? 0) + skip, piece);
      left -= piece;
      skip = 0;
    }
  }

  /** The bytes of piece `index`. */
  at(index: number): Uint8Array {
    const region = this.#regions[index];
    if (region === undefined || index >= this.#count) throw new RangeError(`no segment ${index}`);
    const offset = this.#offsets[index] ?? 0;
    return region.bytes.subarray(offset, offset + (this.#words[index * 4 + 2] ?? 0));
  }

  /** Calls `take` with each piece of bytes `from` … end. */
  forEachFrom(from: number, take: (bytes: Uint8Array) => void): void {
    let skip = from;
    for (let index = 0; index < this.#count; index += 1) {
      const piece = this.at(index);
      if (skip >= piece.length) skip -= piece.length;
      else {
        take(skip === 0 ? piece : piece.subarray(skip));
        skip = 0;
      }
    }
  }
}
