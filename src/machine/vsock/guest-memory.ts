/**
 * Guest memory as the VMM describes it, in a few regions. Rings in it are opened according to its location:
 *
 *     MappedMemory   mapped here, which needs memory that the VMM shares
 *     RemoteMemory   in the VMM's own address space: also memory that it maps privately
 */
import { type MappedRegion, MappedRing } from './mapped-ring.ts';
import { RemoteRing } from './remote-ring.ts';
import {
  type Direction,
  type MemoryRegion,
  RegionTable,
  type RingAddresses,
  type RingMemory,
  type RingProblem,
  type RingSource,
} from './ring-memory.ts';
import type { Scratch } from './scratch.ts';

/** @param buffer the mapping; its length is the region's size */
export function makeRegion(
  guestAddress: number,
  userAddress: number,
  hostAddress: number,
  buffer: ArrayBuffer,
): MappedRegion {
  return {
    guestAddress,
    userAddress,
    hostAddress,
    size: buffer.byteLength,
    bytes: new Uint8Array(buffer),
    view: new DataView(buffer),
  };
}

export class MappedMemory implements RingSource {
  readonly #regions: RegionTable<MappedRegion>;

  constructor(regions: readonly MappedRegion[]) {
    this.#regions = new RegionTable(regions);
  }

  openRing(addresses: RingAddresses, direction: Direction): RingMemory | RingProblem {
    return MappedRing.open(this.#regions, addresses, direction);
  }
}

export class RemoteMemory implements RingSource {
  readonly #regions: RegionTable<MemoryRegion>;
  readonly #fd: number;
  readonly #scratch: Scratch;

  /** @param fd from `openProcessMemory`; still owned by the caller */
  constructor(fd: number, regions: readonly MemoryRegion[], scratch: Scratch) {
    this.#fd = fd;
    this.#regions = new RegionTable(regions);
    this.#scratch = scratch;
  }

  openRing(addresses: RingAddresses, direction: Direction, base: number): RingMemory | RingProblem {
    const space = { fd: this.#fd, regions: this.#regions, scratch: this.#scratch };
    return RemoteRing.open(space, addresses, direction, base);
  }
}

export const EMPTY_MEMORY: RingSource = new MappedMemory([]);
