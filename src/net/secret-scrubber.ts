/**
 * Takes secrets out of a stream: bytes in, in any pieces, the same number of bytes out. Pure.
 *
 *     … x-api-key: sk-live-…  ──►  … x-api-key: NV_SECRET_…        leftmost first, the longest of several
 *
 * Only what could be the beginning of a secret is held back, so that a server's events are not delayed.
 */
export interface Mask {
  readonly find: Buffer;
  /** As long as `find`. */
  readonly put: Buffer;
}

/** @param put cut or filled up to the length of what it stands for */
export function maskOf(find: string, put: string): Mask {
  const bytes = Buffer.from(find, 'latin1');
  const fitting = put.padEnd(bytes.length, '*').slice(0, bytes.length);
  return { find: bytes, put: Buffer.from(fitting, 'latin1') };
}

export class Scrubber {
  readonly #masks: readonly Mask[];
  readonly #longestBytes: number;
  #held: Buffer = Buffer.alloc(0);

  constructor(masks: readonly Mask[]) {
    this.#masks = masks.filter(({ find }) => find.length > 0);
    this.#longestBytes = Math.max(1, ...this.#masks.map(({ find }) => find.length));
  }

  /** May be a view of what was pushed. */
  push(bytes: Uint8Array): Buffer {
    const fresh = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const all = this.#held.length === 0 ? fresh : Buffer.concat([this.#held, fresh]);
    const [out, decidedBytes] = this.#scrub(all);
    this.#held = Buffer.from(all.subarray(decidedBytes));
    return out.subarray(0, decidedBytes);
  }

  /** What was held back, for nothing follows. */
  end(): Buffer {
    const held = this.#held;
    this.#held = Buffer.alloc(0);
    // Inside of what began like a long secret there may be a short one.
    const [out] = this.#scrub(held, true);
    return out;
  }

  /** @returns the bytes, and how many of them can't change any more */
  #scrub(bytes: Buffer, isEnd = false): [Buffer, number] {
    let out = bytes;
    let at = 0;
    for (;;) {
      const found = this.#find(bytes, at);
      const open = isEnd ? bytes.length : this.#beginning(bytes, at);
      if (found === undefined || found.at >= open) return [out, open];
      if (out === bytes) out = Buffer.from(bytes);
      found.mask.put.copy(out, found.at);
      at = found.at + found.mask.find.length;
    }
  }

  #find(bytes: Buffer, from: number): { at: number; mask: Mask } | undefined {
    let best: { at: number; mask: Mask } | undefined;
    for (const mask of this.#masks) {
      const at = bytes.indexOf(mask.find, from);
      if (at < 0) continue;
      const isBetter =
        best === undefined ||
        at < best.at ||
        (at === best.at && mask.find.length > best.mask.find.length);
      if (isBetter) best = { at, mask };
    }
    return best;
  }

  /** Where the rest of the bytes begins a mask that is longer than it; the end of the bytes: nowhere. */
  #beginning(bytes: Buffer, from: number): number {
    const first = Math.max(from, bytes.length - this.#longestBytes + 1);
    for (let at = first; at < bytes.length; at += 1) {
      const rest = bytes.length - at;
      const begins = ({ find }: Mask): boolean =>
        find.length > rest && bytes.compare(find, 0, rest, at) === 0;
      if (this.#masks.some(begins)) return at;
    }
    return bytes.length;
  }
}
