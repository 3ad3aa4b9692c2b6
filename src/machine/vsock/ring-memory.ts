/**
 * The memory of a virtqueue, wherever it is: its three parts, and the buffers of its chains (virtio 1.2, section 2.7).
 *
 *     descriptor table   size × { u64 address, u32 length, u16 flags, u16 next }
 *     available ring     u16 flags, u16 idx, size × u16 head, u16 used_event
 *     used ring          u16 flags, u16 idx, size × { u32 head, u32 length }, u16 avail_event
 */
import { QUEUE_SIZE_MAX, SEGMENTS_MAX } from './limits.ts';

export const DESCRIPTOR_NEXT = 1;
export const DESCRIPTOR_WRITE = 2;

/** A piece of the guest's memory, as the VMM describes it. */
export interface MemoryRegion {
  readonly guestAddress: number;
  readonly userAddress: number;
  readonly size: number;
}

/** Memory of this process, at an address that system calls can take. */
export interface LocalMemory {
  readonly hostAddress: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

export interface RingAddresses {
  /** Entries, a power of two. */
  readonly size: number;
  /** The VMM's user addresses. */
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
}

/** Why a ring can't be used. */
export type RingProblem =
  | 'size'
  | 'descriptor table outside memory'
  | 'available ring outside memory'
  | 'used ring outside memory'
  | 'misaligned'
  | 'memory that can not be reached';

/** `device-writes`: chains that the device fills (RX); `device-reads`: chains that it reads (TX). */
export type Direction = 'device-writes' | 'device-reads';

/** One descriptor chain, as pieces of local memory. Refilled by each `peek`. */
export class Chain {
  head = 0;
  count = 0;
  /** Sum of the lengths of its buffers. The pieces may be shorter, but hold the longest packet. */
  bytes = 0;
  readonly regions: (LocalMemory | undefined)[] = new Array(SEGMENTS_MAX).fill(undefined);
  readonly offsets = new Float64Array(SEGMENTS_MAX);
  readonly lengths = new Float64Array(SEGMENTS_MAX);

  region(index: number): LocalMemory {
    const region = this.regions[index];
    if (region === undefined || index >= this.count) throw new RangeError(`no piece ${index}`);
    return region;
  }

  /** @returns false if it has too many pieces */
  add(region: LocalMemory, offset: number, length: number): boolean {
    if (this.count >= SEGMENTS_MAX) return false;
    this.regions[this.count] = region;
    this.offsets[this.count] = offset;
    this.lengths[this.count] = length;
    this.count += 1;
    return true;
  }
}

/** `no-room`: it has to wait for `publish`. Otherwise the problem with the ring. */
export type ChainFound = 'chain' | 'no-room' | { readonly problem: string };

/** A `fault`: the address space has ended. The VMM's socket reports it as well. */
export const MEMORY_GONE = 'the memory is gone';

/** One ring's memory. Indexes are modulo 2¹⁶, as in the rings. */
export interface RingMemory {
  /** Why the memory can't be reached, permanently. */
  readonly fault: string | undefined;
  /** Reads how many chains the guest has made available since the start. */
  loadAvailableIndex(): number;
  /** The same, as of some time after the last store. */
  loadAvailableIndexAfterStore(): number;
  loadAvailableFlags(): number;
  loadUsedEvent(): number;
  /** The index that the device itself wrote last, before this ring was started. */
  loadUsedIndex(): number;
  /** Finds the chain of entry `index` of the available ring, which the guest has made available. */
  readChain(index: number, chain: Chain): ChainFound;
  /** Stages entry `index` of the used ring. Chains are completed in the order in which they were made available. */
  setUsed(index: number, head: number, written: number): void;
  /** How many of the staged chains to show next, at least one. */
  chainsAtOnce(staged: number): number;
  /**
   * Shows the staged entries from index `from` up to `to` to the guest, in one store that is visible before any later
   * load here. Afterwards no completed chain is valid.
   * @returns a problem, or undefined
   */
  storeUsedIndex(from: number, to: number): string | undefined;
  storeUsedFlags(flags: number): void;
  /** Lets the next `storeUsedIndex` store it as well, if that saves a store. */
  stageAvailableEvent(index: number): void;
  storeAvailableEvent(index: number): void;
}

/** The memory of a guest that rings stand in. */
export interface RingSource {
  openRing(addresses: RingAddresses, direction: Direction, base: number): RingMemory | RingProblem;
}

/** Finds regions by address. */
export class RegionTable<Region extends MemoryRegion> {
  readonly #regions: readonly Region[];
  #last: Region | undefined;

  constructor(regions: readonly Region[]) {
    this.#regions = regions;
  }

  /** The region that holds guest address `address`. Consecutive look-ups mostly hit the same one. */
  findGuest(address: number): Region | undefined {
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

  /**
   * Splits a buffer at guest address `address` at region boundaries.
   * @param take gets each piece, with its offset in the region; returns false to reject it
   * @returns false if a piece is in no region, or was rejected
   */
  cutGuest(address: number, length: number, take: (region: Region, offset: number, bytes: number) => boolean): boolean {
    let at = address;
    let left = length;
    while (left > 0) {
      const region = this.findGuest(at);
      if (region === undefined) return false;
      const offset = at - region.guestAddress;
      const bytes = Math.min(left, region.size - offset);
      if (!take(region, offset, bytes)) return false;
      at += bytes;
      left -= bytes;
    }
    return true;
  }

  /** The region that holds all of `length` bytes from the VMM's address `address`. */
  findUser(address: number, length: number): Region | undefined {
    return this.#regions.find(
      (region) => address >= region.userAddress && address - region.userAddress <= region.size - length,
    );
  }
}

/** The locations of a ring's parts. */
export interface RingPlaces<Region> {
  readonly table: Region;
  readonly available: Region;
  readonly used: Region;
}

/** Finds the parts of a ring and checks what does not depend on where regions are in this process. */
export function placeRing<Region extends MemoryRegion>(
  regions: RegionTable<Region>,
  { size, descriptors, available, used }: RingAddresses,
): RingPlaces<Region> | RingProblem {
  if (!(size >= 1 && size <= QUEUE_SIZE_MAX && (size & (size - 1)) === 0)) return 'size';
  const table = regions.findUser(descriptors, 16 * size);
  if (table === undefined) return 'descriptor table outside memory';
  const availableRegion = regions.findUser(available, 6 + 2 * size);
  if (availableRegion === undefined) return 'available ring outside memory';
  const usedRegion = regions.findUser(used, 6 + 8 * size);
  if (usedRegion === undefined) return 'used ring outside memory';
  return { table, available: availableRegion, used: usedRegion };
}

/**
 * Walks a chain of descriptors. Each is read once and checked before it is used; a chain has at most `size` of them, so
 * the guest can't make this loop endlessly.
 *
 * @param table the descriptors as words, which the guest may be writing
 * @param addBuffer takes a buffer; returns false if it is outside of memory, or one too many
 * @returns a problem, or undefined
 */
export function walkChain(
  table: Uint32Array,
  size: number,
  head: number,
  direction: Direction,
  addBuffer: (address: number, length: number) => boolean,
): string | undefined {
  const wanted = direction === 'device-writes' ? DESCRIPTOR_WRITE : 0;
  let index = head;
  for (let step = 0; ; step += 1) {
    if (index >= size) return `descriptor ${index} of ${size}`;
    if (step >= size) return 'a chain longer than its ring';
    const at = index * 4;
    const low = table[at] ?? 0;
    const high = table[at + 1] ?? 0;
    const length = table[at + 2] ?? 0;
    const flagsAndNext = table[at + 3] ?? 0;
    // Flag 4, an indirect table, was not offered (VIRTIO_F_INDIRECT_DESC).
    if ((flagsAndNext & 0xfffc) !== 0) return `flags ${flagsAndNext & 0xffff}`;
    if ((flagsAndNext & DESCRIPTOR_WRITE) !== wanted)
      return wanted === 0 ? 'a writable TX buffer' : 'a read-only RX buffer';
    // An address that a double can't represent exactly is in no region.
    if (!addBuffer(high * 0x1_0000_0000 + low, length)) return `a buffer of ${length} bytes outside memory`;
    if ((flagsAndNext & DESCRIPTOR_NEXT) === 0) return undefined;
    index = flagsAndNext >>> 16;
  }
}
