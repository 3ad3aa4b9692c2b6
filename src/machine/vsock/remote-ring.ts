/**
 * A ring in the VMM's address space. Nothing is mapped here: parts of the ring and payload are copied by system calls,
 * through room that all guests of the thread use in turn (`Scratch`). A VMM that unmaps or truncates its memory, or
 * ends, makes a call fail, where touching a mapping would end this process by SIGBUS.
 *
 *     loadAvailableIndex   ◄── available ring, unless a later call has read a newer index
 *     readChain            ◄── if chains came since: descriptor table and available ring; headers and payload (TX)
 *     storeUsedIndex       ──► headers and payload (RX); used elements with avail_event; last flags, index and first
 *                              head as 8 bytes
 *     loadUsedEvent        ◄── available ring
 *
 * The order of calls is the order of loads and stores: system calls are full barriers here. Within one call the kernel
 * copies in any order (arch/x86/lib/memcpy_64.S), so a chain is taken only from a call that began when its index was
 * known; the index that this call itself reads is for the next one. Eight aligned bytes are copied as one word.
 */

import { ERRNO } from '../../sys/libc.ts';
import { allocateNative } from '../../sys/memory.ts';
import { readProcess, writeProcess } from '../../sys/process-memory.ts';
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
/** Reads of an impossible index: the guest wrote it while it was copied. */
const TRIES_MAX = 4;
/** Flags, index and the head of the first element. */
const INDEX_WORD_BYTES = 8;
/**
 * Payload between two publications, for the first one; then twice as much each time. So the guest works on the first
 * part while the rest is copied.
 */
const GROUP_BYTES_FIRST = 32 * 1024;

/** The address space of the rings. The caller owns the descriptor of `/proc/PID/mem`. */
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
  /** The descriptor table followed by the available ring, in one piece. */
  readonly #table: Uint32Array;
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedElements: Uint32Array;
  readonly #at: { readonly table: number; readonly available: number; readonly used: number };
  /** The newest index read, the last one returned, and the index up to which chains can be walked. */
  #availableIndex: number;
  #returnedIndex: number;
  #walkableIndex: number;
  /** The index was just read together with chains. */
  #isIndexFresh = false;
  /** The index was read after the last store. */
  #isIndexAfterStore = false;
  /** The next publication must store `avail_event`. */
  #isEventStaged = false;
  #groupBytes = GROUP_BYTES_FIRST;
  #fault: string | undefined;

  /** Chains found since the last publication, in order. */
  #firstRecord = 0;
  #records = 0;
  #completed = 0;
  #published = 0;
  readonly #heads = new Uint16Array(RECORDS_MAX);
  readonly #offsets = new Uint32Array(RECORDS_MAX);
  readonly #totals = new Float64Array(RECORDS_MAX);
  readonly #written = new Uint32Array(RECORDS_MAX);
  /** Number of the first piece; the last piece precedes the next chain's first. */
  readonly #firstPieces = new Uint32Array(RECORDS_MAX + 1);
  /** Addresses in the VMM, and lengths. */
  readonly #pieces = new Float64Array(PIECES_MAX);
  readonly #lengths = new Uint32Array(PIECES_MAX);
  #pieceCount = 0;
  /** Bytes of the chain that is walked, and how many of them have pieces. */
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
    if (readProcess(space.fd, used, ring.#at.used, usedBytes) !== usedBytes) return 'memory that can not be reached';
    return ring;
  }

  private constructor(space: RemoteSpace, addresses: RingAddresses, direction: Direction, base: number) {
    const { size } = addresses;
    const tableBytes = 16 * size;
    const chains = allocateNative(tableBytes + 6 + 2 * size);
    // Whole words, for the view of its elements.
    const used = allocateNative(8 + 8 * size);
    this.#space = space;
    this.#addresses = addresses;
    this.#direction = direction;
    this.#size = size;
    this.#availableIndex = base;
    this.#returnedIndex = base;
    this.#walkableIndex = base;
    this.#table = new Uint32Array(chains.buffer, 0, 4 * size);
    this.#available = new Uint16Array(chains.buffer, tableBytes, 3 + size);
    this.#used = new Uint16Array(used.buffer);
    this.#usedElements = new Uint32Array(used.buffer);
    this.#at = { table: chains.address, available: chains.address + tableBytes, used: used.address };
  }

  get fault(): string | undefined {
    return this.#fault;
  }

  loadAvailableIndex(): number {
    if (this.#returnedIndex === this.#availableIndex && !this.#isIndexFresh) this.#look();
    this.#isIndexFresh = false;
    this.#returnedIndex = this.#availableIndex;
    return this.#availableIndex;
  }

  loadAvailableIndexAfterStore(): number {
    if (!this.#isIndexAfterStore) this.#look();
    this.#isIndexFresh = false;
    this.#returnedIndex = this.#availableIndex;
    return this.#availableIndex;
  }

  loadAvailableFlags(): number {
    this.#look();
    return this.#available[0] ?? 0;
  }

  loadUsedEvent(): number {
    this.#look();
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
    // The memory behind it may hold another guest's bytes.
    if (record >= this.#records || this.#heads[record] !== head || written > limit)
      this.#fault ??= `chain ${head} was completed out of its turn`;
    this.#written[record] = written;
    this.#completed = record + 1;
  }

  /** RX: growing groups. TX: all, as the host has the payload already. */
  chainsAtOnce(staged: number): number {
    if (this.#direction === 'device-reads') return staged;
    let bytes = 0;
    let count = 0;
    while (count < staged && bytes < this.#groupBytes) {
      bytes += this.#written[this.#published + count] ?? 0;
      count += 1;
    }
    this.#groupBytes *= 2;
    return count;
  }

  storeUsedIndex(from: number, to: number): string | undefined {
    const chains = (to - from) & 0xffff;
    if (this.#fault === undefined && this.#direction === 'device-writes') this.#sendPayload(chains);
    const { used } = this.#addresses;
    // A guest that offers chains without looking at the used ring may get back more of them than it has room for.
    const count = Math.min(chains, this.#size);
    const first = (to - count) & (this.#size - 1);
    const untilEnd = Math.min(count, this.#size - first);
    const at = 4 + 8 * first;
    // The data between the elements and `avail_event` is rewritten unchanged.
    const bytes = this.#isEventStaged ? 4 + 8 * this.#size + 2 - at : 8 * untilEnd;
    this.#write(this.#at.used + at, used + at, bytes);
    this.#isEventStaged = false;
    this.#write(this.#at.used + 4, used + 4, 8 * (count - untilEnd));
    this.#used[1] = to;
    this.#write(this.#at.used, used, INDEX_WORD_BYTES);
    this.#published += chains;
    if (this.#published >= this.#completed) {
      this.#groupBytes = GROUP_BYTES_FIRST;
      this.#forget((this.#firstRecord + this.#completed) & 0xffff);
      const { scratch } = this.#space;
      if (scratch.isOf(this)) scratch.begin(this);
    }
    return this.#fault;
  }

  storeUsedFlags(flags: number): void {
    if (this.#used[0] === flags) return;
    this.#used[0] = flags;
    this.#write(this.#at.used, this.#addresses.used, INDEX_WORD_BYTES);
  }

  stageAvailableEvent(index: number): void {
    const word = 2 + 4 * this.#size;
    if (this.#used[word] === index) return;
    this.#used[word] = index;
    this.#isEventStaged = true;
  }

  storeAvailableEvent(index: number): void {
    this.stageAvailableEvent(index);
    if (!this.#isEventStaged) return;
    this.#isEventStaged = false;
    const offset = 4 + 8 * this.#size;
    this.#write(this.#at.used + offset, this.#addresses.used + offset, 2);
  }

  #forget(nextRecord: number): void {
    this.#firstRecord = nextRecord;
    this.#records = 0;
    this.#completed = 0;
    this.#published = 0;
    this.#pieceCount = 0;
  }

  /** Finds the next chain, reserves memory for it and, if it is to be read, reads its bytes. */
  #record(index: number): ChainFound {
    const record = this.#records;
    if (((index - this.#firstRecord) & 0xffff) !== record) return { problem: 'chains out of order' };
    if (record >= RECORDS_MAX) return 'no-room';
    const walkable = (this.#walkableIndex - index) & 0xffff;
    if ((walkable === 0 || walkable > this.#size) && !this.#loadChains()) return this.#faultFound();
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

  /** Copies the payload of the next `count` completed chains. */
  #sendPayload(count: number): void {
    const { scratch } = this.#space;
    const { hostAddress } = scratch.memory;
    // The memory has another ring's bytes.
    if (count > 0 && !scratch.isOf(this)) this.#fault ??= 'chains were kept too long';
    if (this.#fault !== undefined) return;
    const end = Math.min(this.#published + count, this.#completed);
    for (let record = this.#published; record < end; record += 1) {
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

  /** Reads the available ring, again while its index is impossible. */
  #look(): void {
    const { available } = this.#addresses;
    this.#isIndexFresh = false;
    for (let tries = 1; tries <= TRIES_MAX; tries += 1) {
      if (!this.#read(available, this.#at.available, 6 + 2 * this.#size)) return;
      if (this.#noteIndex(tries === TRIES_MAX)) break;
    }
    this.#isIndexAfterStore = true;
  }

  /** Reads chains whose index is known, and the index, which may be newer. */
  #loadChains(): boolean {
    const { descriptors, available } = this.#addresses;
    const tableBytes = 16 * this.#size;
    const availableBytes = 6 + 2 * this.#size;
    const shown = this.#availableIndex;
    const isLoaded =
      available === descriptors + tableBytes
        ? this.#read(descriptors, this.#at.table, tableBytes + availableBytes)
        : this.#read(available, this.#at.available, availableBytes) &&
          this.#read(descriptors, this.#at.table, tableBytes);
    if (!isLoaded) return false;
    this.#walkableIndex = shown;
    this.#isIndexFresh = this.#noteIndex(false);
    return true;
  }

  /** @returns false if the index is impossible; it is then ignored unless `isLast` */
  #noteIndex(isLast: boolean): boolean {
    const index = this.#available[1] ?? 0;
    const isPossible = ((index - this.#availableIndex) & 0xffff) <= this.#size;
    if (isPossible || isLast) this.#availableIndex = index;
    return isPossible;
  }

  #faultFound(): ChainFound {
    return this.#fault === undefined || this.#fault === MEMORY_GONE ? 'no-room' : { problem: this.#fault };
  }

  #read(from: number, to: number, bytes: number): boolean {
    return this.#check(readProcess(this.#space.fd, from, to, bytes), bytes, 'read');
  }

  #write(from: number, to: number, bytes: number): void {
    if (bytes === 0 || this.#fault !== undefined) return;
    this.#isIndexAfterStore = false;
    this.#check(writeProcess(this.#space.fd, from, to, bytes), bytes, 'written');
  }

  #check(moved: number, bytes: number, how: string): boolean {
    if (moved === bytes) return true;
    // No byte at all, and no error: the address space is gone, as its socket will report.
    if (moved === 0 || moved === -ERRNO.ESRCH) this.#fault ??= MEMORY_GONE;
    else this.#fault ??= `memory that can not be ${how}: ${moved} of ${bytes} bytes`;
    return false;
  }
}
