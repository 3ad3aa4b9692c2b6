/** Local memory for data from and to memory that is not mapped here. */
import { allocateNative } from '../../sys/memory.ts';
import type { LocalMemory } from './ring-memory.ts';

const ALIGNMENT = 64;

/**
 * One piece of memory for all rings of a thread. A ring's bytes are valid only until it publishes, or another ring
 * takes some: nothing is kept between turns, so one piece is enough for any number of guests.
 */
export class Scratch {
  readonly memory: LocalMemory;
  readonly #bytes: number;
  #owner: object | undefined;
  #used = 0;

  constructor(bytes: number) {
    const { address, buffer } = allocateNative(bytes);
    this.memory = { hostAddress: address, bytes: new Uint8Array(buffer), view: new DataView(buffer) };
    this.#bytes = bytes;
  }

  /** Whether the memory that `owner` has taken is still its own. */
  isOf(owner: object): boolean {
    return this.#owner === owner;
  }

  /** Gives everything to `owner`. */
  begin(owner: object): void {
    this.#owner = owner;
    this.#used = 0;
  }

  /** @returns the offset of `bytes` for the owner, or −1 if there is no room */
  take(bytes: number): number {
    const at = this.#used;
    if (at + bytes > this.#bytes) return -1;
    this.#used = at + Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    return at;
  }
}
