/**
 * A ring in the VMM's address space. Nothing is mapped here: parts of the ring and payload are copied by system calls,
 * through room that all guests of the thread use in turn (`Scratch`). A VMM that unmaps or truncates its memory, or
 * ends, makes a call fail, where touching a mapping would end this process by SIGBUS.
 *
 *     loadAvailableIndex   ◄── index of the available ring
 *     readChain            ◄── if chains came since: its entries, descriptor table; headers and payload (TX)
 *     storeUsedIndex       ──► headers and payload (RX); used elements; last flags, index and first head as 8 bytes
 *
 * The order of calls is the order of loads and stores: system calls are full barriers here. Within one call the kernel
 * copies in any order (arch/x86/lib/memcpy_64.S), so what an index stands for is never read by the call that reads the
 * index. Eight aligned bytes are copied as one word.
 */

import { ERRNO } from '../sys/libc.ts';
import { allocateNative } from '../sys/memory.ts';
import { readProcess, writeProcess } from '../sys/process-memory.ts';
import { PACKET_BYTES_MAX, SEGMENTS_MAX } from './limits.ts';
import { HEADER_BYTES } from './packet.ts';
import {
  type Chain,
  type ChainFound,
  type Direction,
  MEMORY_GONE,
  type MemoryRegion,
  placeRing,
  type RegionTable,
  type RingAddresses,
  type RingMemory,
  type RingProblem,
  walkChain,
} from './ring-memory.ts';
import type { Scratch } from './scratch.ts';

/** No packet needs more of a chain. */
const CHAIN_BYTES_MAX = HEADER_BYTES + PACKET_BYTES_MAX;
/** Chains, and pieces of them, between two publications; more wait for the next turn. */
const RECORDS_MAX = 1024;
const PIECES_MAX = 4 * RECORDS_MAX;
/** Looks at an index that can't be: the guest wrote it while it was copied. */
const TRIES_MAX = 4;
/** Flags, index and the head of the first element. */
const INDEX_WORD_BYTES = 8;
/** Flags and index, before the entries of the available ring. */
const AVAILABLE_HEADER_BYTES = 4;

/** The address space that rings stand in. The descriptor of `/proc/PID/mem` is the caller's. */
export interface RemoteSpace {
  readonly fd: number;
  readonly regions: RegionTable<MemoryRegion>;
  readonly scratch: Scratch;
}

export class RemoteRing implements RingMemory {
  readonly #space: RemoteSpace;
  readonly #addresses: RingAddresses;
  readonly #direction: Direction;
  readonly #size: number;
  readonly #table: Uint32Array;
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedElements: Uint32Array;
  readonly #at: { readonly table: number; readonly available: number; readonly used: number };
  #availableIndex = 0;
  /** Chains were made available since the entries and the table were read. */
  #areChainsStale = true;
  #fault: string | undefined;

  /** Chains that were found since the last publication, in order. */
  #firstRecord = 0;
  #records = 0;
  #completed = 0;
  readonly #heads = new Uint16Array(RECORDS_MAX);
  readonly #offsets = new Uint32Array(RECORDS_MAX);
  readonly #totals = new Float64Array(RECORDS_MAX);
  readonly #written = new Uint32Array(RECORDS_MAX);
  /** Number of its first piece; its last is before the next one's first. */
  readonly #firstPieces = new Uint32Array(RECORDS_MAX + 1);
  /** Addresses in the VMM, and lengths. */
  readonly #pieces = new Float64Array(PIECES_MAX);
  readonly #lengths = new Uint32Array(PIECES_MAX);
  #pieceCount = 0;
  /** Bytes of the chain that is walked, and those of them that have pieces. */
  #total = 0;
  #kept = 0;

  static open(
    space: RemoteSpace,
    addresses: RingAddresses,
    direction: Direction,
    base: number,
  ): RemoteRing | RingProblem {
    const places = placeRing(space.regions, addresses);
    if (typeof places === 'string') return places;
    const { size, descriptors, available, used } = addresses;
    if (descriptors % 16 !== 0 || available % 2 !== 0 || used % 4 !== 0) return 'misaligned';
    const ring = new RemoteRing(space, addresses, direction, base);
    const usedBytes = 6 + 8 * size;
    if (readProcess(space.fd, used, ring.#at.used, usedBytes) !== usedBytes)
      return 'memory that can not be reached';
    return ring;
  }

  private constructor(
    space: RemoteSpace,
    addresses: RingAddresses,
    direction: Direction,
    base: number,
  ) {
    const { size } = addresses;
    const table = allocateNative(16 * size);
    const available = allocateNative(6 + 2 * size);
    // Whole words, for the view of its elements.
    const used = allocateNative(8 + 8 * size);
    this.#space = space;
    this.#addresses = addresses;
    this.#direction = direction;
    this.#size = size;
    this.#availableIndex = base;
    this.#table = new Uint32Array(table.buffer);
    this.#available = new Uint16Array(available.buffer);
    this.#used = new Uint16Array(used.buffer);
    this.#usedElements = new Uint32Array(used.buffer);
    this.#at = { table: table.address, available: available.address, used: used.address };
  }

  get fault(): string | undefined {
    return this.#fault;
  }

  loadAvailableIndex(): number {
    const before = this.#availableIndex;
    for (let tries = 0; tries < TRIES_MAX; tries += 1) {
      if (!this.#loadAvailable(0, AVAILABLE_HEADER_BYTES)) return before;
      const index = this.#available[1] ?? 0;
      this.#availableIndex = index;
      if (((index - before) & 0xffff) <= this.#size) break;
    }
    if (this.#availableIndex !== before) this.#areChainsStale = true;
    return this.#availableIndex;
  }

  loadAvailableFlags(): number {
    this.#loadAvailable(0, 2);
    return this.#available[0] ?? 0;
  }

  loadUsedEvent(): number {
    this.#loadAvailable(AVAILABLE_HEADER_BYTES + 2 * this.#size, 2);
    return this.#available[2 + this.#size] ?? 0;
  }

  loadUsedIndex(): number {
    return this.#used[1] ?? 0;
  }

  readChain(index: number, chain: Chain): ChainFound {
    const { scratch } = this.#space;
    if (!scratch.isOf(this)) {
      scratch.begin(this);
      this.#forget(index);
    }
    const record = (index - this.#firstRecord) & 0xffff;
    if (record >= this.#records) {
      const found = this.#record(index);
      if (found !== 'chain') return found;
    }
    chain.head = this.#heads[record] ?? 0;
    chain.bytes = this.#totals[record] ?? 0;
    chain.count = 0;
    const bytes = Math.min(chain.bytes, CHAIN_BYTES_MAX);
    if (bytes > 0) chain.add(scratch.memory, this.#offsets[record] ?? 0, bytes);
    return 'chain';
  }

  setUsed(index: number, head: number, written: number): void {
    const slot = index & (this.#size - 1);
    this.#usedElements[1 + slot * 2] = head;
    this.#usedElements[2 + slot * 2] = written;
    const record = this.#completed;
    const limit = Math.min(this.#totals[record] ?? 0, CHAIN_BYTES_MAX);
    // The room behind it may hold another guest's bytes.
    if (record >= this.#records || this.#heads[record] !== head || written > limit)
      this.#fault ??= `chain ${head} was completed out of its turn`;
    this.#written[record] = written;
    this.#completed = record + 1;
  }

  storeUsedIndex(from: number, to: number): string | undefined {
    if (this.#fault === undefined && this.#direction === 'device-writes') this.#sendPayload();
    const { used } = this.#addresses;
    // A guest that offers chains without looking at the used ring may get more of them back than it has room for.
    const count = Math.min((to - from) & 0xffff, this.#size);
    const first = (to - count) & (this.#size - 1);
    const untilEnd = Math.min(count, this.#size - first);
    this.#write(this.#at.used + 4 + 8 * first, used + 4 + 8 * first, 8 * untilEnd);
    this.#write(this.#at.used + 4, used + 4, 8 * (count - untilEnd));
    this.#used[1] = to;
    this.#write(this.#at.used, used, INDEX_WORD_BYTES);
    this.#forget((this.#firstRecord + this.#completed) & 0xffff);
    const { scratch } = this.#space;
    if (scratch.isOf(this)) scratch.begin(this);
    return this.#fault;
  }

  storeUsedFlags(flags: number): void {
    if (this.#used[0] === flags) return;
    this.#used[0] = flags;
    this.#write(this.#at.used, this.#addresses.used, INDEX_WORD_BYTES);
  }

  storeAvailableEvent(index: number): void {
    const offset = 4 + 8 * this.#size;
    this.#used[offset / 2] = index;
    this.#write(this.#at.used + offset, this.#addresses.used + offset, 2);
  }

  #forget(nextRecord: number): void {
    this.#firstRecord = nextRecord;
    this.#records = 0;
    this.#completed = 0;
    this.#pieceCount = 0;
  }

  /** Finds the next chain, takes room for it and, if it is to be read, its bytes. */
  #record(index: number): ChainFound {
    const record = this.#records;
    if (((index - this.#firstRecord) & 0xffff) !== record)
      return { problem: 'chains out of order' };
    if (record >= RECORDS_MAX) return 'no-room';
    if (this.#areChainsStale) {
      if (!this.#loadChains()) return this.#faultFound();
      this.#areChainsStale = false;
    }
    const head = this.#available[2 + (index & (this.#size - 1))] ?? 0;
    const firstPiece = this.#pieceCount;
    if (firstPiece + SEGMENTS_MAX > PIECES_MAX) return 'no-room';
    this.#total = 0;
    this.#kept = 0;
    this.#firstPieces[record] = firstPiece;
    const problem = walkChain(this.#table, this.#size, head, this.#direction, this.#addBuffer);
    if (problem !== undefined) return { problem };
    const offset = this.#space.scratch.take(this.#kept);
    if (offset < 0) {
      this.#pieceCount = firstPiece;
      return 'no-room';
    }
    if (this.#direction === 'device-reads') {
      let to = this.#space.scratch.memory.hostAddress + offset;
      for (let piece = firstPiece; piece < this.#pieceCount; piece += 1) {
        const length = this.#lengths[piece] ?? 0;
        if (!this.#read(this.#pieces[piece] ?? 0, to, length)) return this.#faultFound();
        to += length;
      }
    }
    this.#heads[record] = head;
    this.#offsets[record] = offset;
    this.#totals[record] = this.#total;
    this.#firstPieces[record + 1] = this.#pieceCount;
    this.#records = record + 1;
    return 'chain';
  }

  /** Adds a buffer as far as a packet reaches; neighbors become one piece. */
  readonly #addBuffer = (address: number, length: number): boolean => {
    this.#total += length;
    return this.#space.regions.cutGuest(address, length, this.#keepPiece);
  };

  readonly #keepPiece = (region: MemoryRegion, offset: number, bytes: number): boolean => {
    const kept = Math.min(bytes, CHAIN_BYTES_MAX - this.#kept);
    return kept <= 0 || this.#addPiece(region.userAddress + offset, kept);
  };

  #addPiece(address: number, bytes: number): boolean {
    const first = this.#firstPieces[this.#records] ?? 0;
    const last = this.#pieceCount - 1;
    this.#kept += bytes;
    if (last >= first && (this.#pieces[last] ?? 0) + (this.#lengths[last] ?? 0) === address) {
      this.#lengths[last] = (this.#lengths[last] ?? 0) + bytes;
      return true;
    }
    if (this.#pieceCount - first >= SEGMENTS_MAX) return false;
    this.#pieces[this.#pieceCount] = address;
    this.#lengths[this.#pieceCount] = bytes;
    this.#pieceCount += 1;
    return true;
  }

  /** Copies what completed chains got. */
  #sendPayload(): void {
    const { scratch } = this.#space;
    const { hostAddress } = scratch.memory;
    // Somebody else's bytes are there.
    if (this.#completed > 0 && !scratch.isOf(this)) this.#fault ??= 'chains were kept too long';
    if (this.#fault !== undefined) return;
    for (let record = 0; record < this.#completed; record += 1) {
      let from = hostAddress + (this.#offsets[record] ?? 0);
      let left = this.#written[record] ?? 0;
      for (let piece = this.#firstPieces[record] ?? 0; left > 0; piece += 1) {
        const bytes = Math.min(left, this.#lengths[piece] ?? 0);
        this.#write(from, this.#pieces[piece] ?? 0, bytes);
        from += bytes;
        left -= bytes;
      }
    }
  }

  #loadAvailable(offset: number, bytes: number): boolean {
    return this.#read(this.#addresses.available + offset, this.#at.available + offset, bytes);
  }

  /** Reads entries and descriptors, after the index that shows them was read. */
  #loadChains(): boolean {
    return (
      this.#loadAvailable(AVAILABLE_HEADER_BYTES, 2 * this.#size) &&
      this.#read(this.#addresses.descriptors, this.#at.table, 16 * this.#size)
    );
  }

  #faultFound(): ChainFound {
    return this.#fault === undefined || this.#fault === MEMORY_GONE
      ? 'no-room'
      : { problem: this.#fault };
  }

  #read(from: number, to: number, bytes: number): boolean {
    return this.#check(readProcess(this.#space.fd, from, to, bytes), bytes, 'read');
  }

  #write(from: number, to: number, bytes: number): void {
    if (bytes === 0 || this.#fault !== undefined) return;
    this.#check(writeProcess(this.#space.fd, from, to, bytes), bytes, 'written');
  }

  #check(moved: number, bytes: number, how: string): boolean {
    if (moved === bytes) return true;
    // No byte at all, and no error: the address space is gone, as its socket will say.
    if (moved === 0 || moved === -ERRNO.ESRCH) this.#fault ??= MEMORY_GONE;
    else this.#fault ??= `memory that can not be ${how}: ${moved} of ${bytes} bytes`;
    return false;
  }
}
