/**
 * Guest memory as the VMM shares it: a few regions, each with a guest address (what descriptors hold)
 * and a user address (what the VMM calls ring addresses by), both only ever translated, never trusted.
 */

export interface MemoryRegion {
  readonly guestAddress: number;
  readonly userAddress: number;
  readonly size: number;
  /** Where the region is mapped in this process, for system calls. */
  readonly hostAddress: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** @param buffer the mapping; its length is the region's size. */
export function makeRegion(
  guestAddress: number,
  userAddress: number,
  hostAddress: number,
  buffer: ArrayBuffer,
): MemoryRegion {
  return {
    guestAddress,
    userAddress,
    hostAddress,
    size: buffer.byteLength,
    bytes: new Uint8Array(buffer),
    view: new DataView(buffer),
  };
}

export class GuestMemory {
  readonly #regions: readonly MemoryRegion[];
  #last: MemoryRegion | undefined;

  constructor(regions: readonly MemoryRegion[]) {
    this.#regions = regions;
  }

  get regions(): readonly MemoryRegion[] {
    return this.#regions;
  }

  /** The region that holds guest address `address`. Consecutive look-ups mostly hit the same one. */
  findGuest(address: number): MemoryRegion | undefined {
    const last = this.#last;
    if (last !== undefined && address >= last.guestAddress) {
      if (address - last.guestAddress < last.size) return last;
    }
    for (const region of this.#regions) {
      if (address >= region.guestAddress && address - region.guestAddress < region.size) {
        this.#last = region;
        return region;
      }
    }
    return undefined;
  }

  /** The region that holds all of `length` bytes from the VMM's address `address`. */
  findUser(address: number, length: number): MemoryRegion | undefined {
    return this.#regions.find(
      (region) =>
        address >= region.userAddress && address - region.userAddress <= region.size - length,
    );
  }
}

export const EMPTY_MEMORY = new GuestMemory([]);
