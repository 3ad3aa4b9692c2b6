/** A ring in memory that is mapped here: the guest writes it at the same time, and payload is never copied. */
import {
  type Chain,
  type ChainFound,
  type Direction,
  type LocalMemory,
  type MemoryRegion,
  placeRing,
  type RegionTable,
  type RingAddresses,
  type RingMemory,
  type RingProblem,
  walkChain,
} from './ring-memory.ts';

export interface MappedRegion extends MemoryRegion, LocalMemory {}

export class MappedRing implements RingMemory {
  readonly fault = undefined;
  readonly #regions: RegionTable<MappedRegion>;
  readonly #direction: Direction;
  readonly #size: number;
  readonly #table: Uint32Array;
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedElements: Uint32Array;
  #chain: Chain | undefined;

  static open(
    regions: RegionTable<MappedRegion>,
    addresses: RingAddresses,
    direction: Direction,
  ): MappedRing | RingProblem {
    const places = placeRing(regions, addresses);
    if (typeof places === 'string') return places;
    const offset = (region: MappedRegion, address: number): number =>
      region.bytes.byteOffset + address - region.userAddress;
    const table = offset(places.table, addresses.descriptors);
    const available = offset(places.available, addresses.available);
    const used = offset(places.used, addresses.used);
    if (table % 16 !== 0 || available % 2 !== 0 || used % 4 !== 0) return 'misaligned';
    const { size } = addresses;
    return new MappedRing(regions, direction, size, {
      table: new Uint32Array(places.table.bytes.buffer, table, 4 * size),
      available: new Uint16Array(places.available.bytes.buffer, available, 3 + size),
      used: new Uint16Array(places.used.bytes.buffer, used, 3 + 4 * size),
      usedElements: new Uint32Array(places.used.bytes.buffer, used, 1 + 2 * size),
    });
  }

  private constructor(
    regions: RegionTable<MappedRegion>,
    direction: Direction,
    size: number,
    parts: { table: Uint32Array; available: Uint16Array; used: Uint16Array; usedElements: Uint32Array },
  ) {
    this.#regions = regions;
    this.#direction = direction;
    this.#size = size;
    this.#table = parts.table;
    this.#available = parts.available;
    this.#used = parts.used;
    this.#usedElements = parts.usedElements;
  }

  loadAvailableIndex(): number {
    return Atomics.load(this.#available, 1);
  }

  loadAvailableIndexAfterStore(): number {
    return this.loadAvailableIndex();
  }

  loadAvailableFlags(): number {
    return Atomics.load(this.#available, 0);
  }

  loadUsedEvent(): number {
    return Atomics.load(this.#available, 2 + this.#size);
  }

  loadUsedIndex(): number {
    return Atomics.load(this.#used, 1);
  }

  readChain(index: number, chain: Chain): ChainFound {
    chain.head = this.#available[2 + (index & (this.#size - 1))] ?? 0;
    chain.count = 0;
    chain.bytes = 0;
    this.#chain = chain;
    const problem = walkChain(this.#table, this.#size, chain.head, this.#direction, this.#add);
    return problem === undefined ? 'chain' : { problem };
  }

  setUsed(index: number, head: number, written: number): void {
    const slot = index & (this.#size - 1);
    this.#usedElements[1 + slot * 2] = head;
    this.#usedElements[2 + slot * 2] = written;
  }

  chainsAtOnce(staged: number): number {
    return staged;
  }

  storeUsedIndex(_from: number, to: number): undefined {
    // A sequentially consistent store, then the load: the order that 2.7.7.2 and 2.7.13.4 require.
    Atomics.store(this.#used, 1, to);
  }

  storeUsedFlags(flags: number): void {
    Atomics.store(this.#used, 0, flags);
  }

  stageAvailableEvent(): void {}

  storeAvailableEvent(index: number): void {
    Atomics.store(this.#used, 2 + 4 * this.#size, index);
  }

  /** Adds a buffer to the chain, split at region boundaries. */
  readonly #add = (address: number, length: number): boolean => {
    const chain = this.#chain;
    if (chain === undefined) return false;
    chain.bytes += length;
    return this.#regions.cutGuest(address, length, this.#addPiece);
  };

  readonly #addPiece = (region: MappedRegion, offset: number, bytes: number): boolean =>
    this.#chain?.add(region, offset, bytes) ?? false;
}
