/** Reads the headers of a guest's packets. A header may lie in several buffers of its chain. */
import { HEADER_BYTES, PacketHeader } from './packet.ts';
import type { Chain } from './ring-memory.ts';

export class HeaderReader {
  /** The header that was read last. */
  readonly header = new PacketHeader();
  readonly #guestCid: number;
  readonly #scratch = new Uint8Array(HEADER_BYTES);
  readonly #scratchView = new DataView(this.#scratch.buffer);

  constructor(guestCid: number) {
    this.#guestCid = guestCid;
  }

  /** @returns the problem of a header that makes no sense */
  read(chain: Chain): ReturnType<PacketHeader['readFromGuest']> {
    if ((chain.lengths[0] ?? 0) >= HEADER_BYTES)
      return this.header.readFromGuest(chain.region(0).view, chain.offsets[0] ?? 0, this.#guestCid);
    let at = 0;
    for (let index = 0; at < HEADER_BYTES; index += 1) {
      const size = Math.min(chain.lengths[index] ?? 0, HEADER_BYTES - at);
      const offset = chain.offsets[index] ?? 0;
      this.#scratch.set(chain.region(index).bytes.subarray(offset, offset + size), at);
      at += size;
    }
    return this.header.readFromGuest(this.#scratchView, 0, this.#guestCid);
  }
}
