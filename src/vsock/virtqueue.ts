/**
 * The device's side of a split virtqueue (virtio 1.2, section 2.7) in memory that a hostile guest writes
 * at the same time.
 *
 *     descriptor table   size × { u64 address, u32 length, u16 flags, u16 next }
 *     available ring     u16 flags, u16 idx, size × u16 head, u16 used_event
 *     used ring          u16 flags, u16 idx, size × { u32 head, u32 length }, u16 avail_event
 *
 * Everything that the guest wrote is read once and checked before it is used; a chain has at most `size`
 * descriptors, so no loop of theirs becomes one of ours. A ring that breaks the rules makes `peek` answer
 * `broken`, for good: the specification has no way to go on (2.1.2, DEVICE_NEEDS_RESET).
 *
 * Completions are staged (`complete`) and shown to the guest together (`publish`).
 */

import type { GuestMemory, MemoryRegion } from './guest-memory.ts';
import { QUEUE_SIZE_MAX, SEGMENTS_MAX } from './limits.ts';

const DESCRIPTOR_NEXT = 1;
const DESCRIPTOR_WRITE = 2;
const AVAILABLE_NO_INTERRUPT = 1;
const USED_NO_NOTIFY = 1;

export interface RingAddresses {
  /** Entries, a power of two. */
  readonly size: number;
  /** The VMM's user addresses. */
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
}

/** Why a ring can't be used. */
type RingProblem =
  | 'size'
  | 'descriptor table outside memory'
  | 'available ring outside memory'
  | 'used ring outside memory'
  | 'misaligned';

/** One descriptor chain, as pieces of guest memory. Filled again by each `peek`. */
export class Chain {
  head = 0;
  count = 0;
  /** Sum of the lengths of the pieces that the device may read or write, whichever the queue is for. */
  bytes = 0;
  readonly regions: (MemoryRegion | undefined)[] = new Array(SEGMENTS_MAX).fill(undefined);
  readonly offsets = new Float64Array(SEGMENTS_MAX);
  readonly lengths = new Float64Array(SEGMENTS_MAX);

  region(index: number): MemoryRegion {
    const region = this.regions[index];
    if (region === undefined || index >= this.count) throw new RangeError(`no piece ${index}`);
    return region;
  }
}

type Peek = 'chain' | 'empty' | 'broken';

export class Virtqueue {
  /** The chain that the last `peek` found. */
  readonly chain = new Chain();
  /** `device`: chains that the device writes (RX); `driver`: chains that it reads (TX). */
  readonly #direction: 'device-writes' | 'device-reads';
  #memory: GuestMemory | undefined;
  #size = 0;
  #descriptors = NO_WORDS;
  #available = NO_HALFWORDS;
  #used = NO_HALFWORDS;
  #usedElements = NO_WORDS;
  #usesEventIndex = false;
  #availableIndex = 0;
  #usedIndex = 0;
  #publishedIndex = 0;
  #problem: string | undefined;

  constructor(direction: 'device-writes' | 'device-reads') {
    this.#direction = direction;
  }

  get isRunning(): boolean {
    return this.#memory !== undefined;
  }

  /** Why `peek` said `broken`. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Index of the next chain to take: what GET_VRING_BASE asks for. */
  get availableIndex(): number {
    return this.#availableIndex;
  }

  get size(): number {
    return this.#size;
  }

  /** Chains that are completed and not yet shown to the guest. */
  get staged(): number {
    return (this.#usedIndex - this.#publishedIndex) & 0xffff;
  }

  /** Starts to serve a ring from chain number `base`. @returns what is wrong with it, or undefined. */
  start(
    memory: GuestMemory,
    ring: RingAddresses,
    base: number,
    usesEventIndex: boolean,
  ): RingProblem | undefined {
    const problem = this.#locate(memory, ring);
    if (problem !== undefined) return problem;
    this.#memory = memory;
    this.#usesEventIndex = usesEventIndex;
    this.#availableIndex = base & 0xffff;
    this.#usedIndex = Atomics.load(this.#used, 1);
    this.#publishedIndex = this.#usedIndex;
    this.#problem = undefined;
    return undefined;
  }

  /** Follows a running ring into a new memory table. */
  relocate(memory: GuestMemory, ring: RingAddresses): RingProblem | undefined {
    const problem = this.#locate(memory, ring);
    if (problem === undefined) this.#memory = memory;
    return problem;
  }

  /** Forgets all memory. The caller has published what it completed. */
  stop(): void {
    this.#memory = undefined;
    this.#descriptors = NO_WORDS;
    this.#available = NO_HALFWORDS;
    this.#used = NO_HALFWORDS;
    this.#usedElements = NO_WORDS;
    this.chain.regions.fill(undefined);
    this.chain.count = 0;
  }

  /** Chains that the guest has made available and that are not taken. */
  available(): number {
    return (Atomics.load(this.#available, 1) - this.#availableIndex) & 0xffff;
  }

  /** Looks at the chain that is `ahead` places after the next one, without taking it. */
  peek(ahead: number): Peek {
    if (this.#memory === undefined) return 'empty';
    if (this.#problem !== undefined) return 'broken';
    const waiting = this.available();
    if (waiting > this.#size) return this.#break(`${waiting} chains in a ring of ${this.#size}`);
    if (ahead >= waiting) return 'empty';
    const slot = (this.#availableIndex + ahead) & (this.#size - 1);
    return this.#readChain(this.#available[2 + slot] ?? 0);
  }

  /** Takes the next `count` chains. */
  consume(count: number): void {
    this.#availableIndex = (this.#availableIndex + count) & 0xffff;
  }

  /** Stages the return of a taken chain into which the device wrote `written` bytes. */
  complete(head: number, written: number): void {
    const slot = this.#usedIndex & (this.#size - 1);
    this.#usedElements[1 + slot * 2] = head;
    this.#usedElements[2 + slot * 2] = written;
    this.#usedIndex = (this.#usedIndex + 1) & 0xffff;
  }

  /**
   * Shows staged completions to the guest.
   * @returns whether the guest wants to be interrupted for them.
   */
  publish(): boolean {
    const before = this.#publishedIndex;
    const after = this.#usedIndex;
    if (before === after || this.#memory === undefined) return false;
    this.#publishedIndex = after;
    // A sequentially consistent store, then the load: the order that 2.7.7.2 and 2.7.13.4 demand.
    Atomics.store(this.#used, 1, after);
    if (!this.#usesEventIndex)
      return (Atomics.load(this.#available, 0) & AVAILABLE_NO_INTERRUPT) === 0;
    const event = Atomics.load(this.#available, 2 + this.#size);
    return ((after - event - 1) & 0xffff) < ((after - before) & 0xffff);
  }

  /** Asks the guest not to kick. It is a hint: kicks may still come. */
  suppressKicks(): void {
    if (!this.#usesEventIndex && this.#memory !== undefined)
      Atomics.store(this.#used, 0, USED_NO_NOTIFY);
  }

  /**
   * Asks for a kick when the next chain comes.
   * @returns whether one came meanwhile, for which there may be no kick.
   */
  requestKick(): boolean {
    if (this.#memory === undefined) return false;
    if (this.#usesEventIndex) Atomics.store(this.#used, 2 + 4 * this.#size, this.#availableIndex);
    else Atomics.store(this.#used, 0, 0);
    return this.available() !== 0;
  }

  #readChain(head: number): Peek {
    const chain = this.chain;
    chain.head = head;
    chain.count = 0;
    chain.bytes = 0;
    const wanted = this.#direction === 'device-writes' ? DESCRIPTOR_WRITE : 0;
    let index = head;
    for (let step = 0; ; step += 1) {
      if (index >= this.#size) return this.#break(`descriptor ${index} of ${this.#size}`);
      if (step >= this.#size) return this.#break('a chain longer than its ring');
      const at = index * 4;
      const low = this.#descriptors[at] ?? 0;
      const high = this.#descriptors[at + 1] ?? 0;
      const length = this.#descriptors[at + 2] ?? 0;
      const flagsAndNext = this.#descriptors[at + 3] ?? 0;
      // Flag 4, an indirect table, was not offered (VIRTIO_F_INDIRECT_DESC).
      if ((flagsAndNext & 0xfffc) !== 0) return this.#break(`flags ${flagsAndNext & 0xffff}`);
      if ((flagsAndNext & DESCRIPTOR_WRITE) !== wanted)
        return this.#break(wanted === 0 ? 'a writable TX buffer' : 'a read-only RX buffer');
      if (!this.#append(high * 0x1_0000_0000 + low, length))
        return this.#break(`a buffer of ${length} bytes outside memory`);
      if ((flagsAndNext & DESCRIPTOR_NEXT) === 0) return 'chain';
      index = flagsAndNext >>> 16;
    }
  }

  /** Adds a buffer, cut where regions meet. An address that a double can't hold exactly is in no region. */
  #append(address: number, length: number): boolean {
    const chain = this.chain;
    chain.bytes += length;
    let at = address;
    let left = length;
    while (left > 0) {
      const region = this.#memory?.findGuest(at);
      if (region === undefined || chain.count >= SEGMENTS_MAX) return false;
      const offset = at - region.guestAddress;
      const size = Math.min(left, region.size - offset);
      chain.regions[chain.count] = region;
      chain.offsets[chain.count] = offset;
      chain.lengths[chain.count] = size;
      chain.count += 1;
      at += size;
      left -= size;
    }
    return true;
  }

  #break(problem: string): 'broken' {
    this.#problem = problem;
    return 'broken';
  }

  #locate(memory: GuestMemory, ring: RingAddresses): RingProblem | undefined {
    const { size, descriptors, available, used } = ring;
    if (!(size >= 1 && size <= QUEUE_SIZE_MAX && (size & (size - 1)) === 0)) return 'size';
    const table = memory.findUser(descriptors, 16 * size);
    if (table === undefined) return 'descriptor table outside memory';
    const availableRegion = memory.findUser(available, 6 + 2 * size);
    if (availableRegion === undefined) return 'available ring outside memory';
    const usedRegion = memory.findUser(used, 6 + 8 * size);
    if (usedRegion === undefined) return 'used ring outside memory';
    const tableAt = table.bytes.byteOffset + descriptors - table.userAddress;
    const availableAt = availableRegion.bytes.byteOffset + available - availableRegion.userAddress;
    const usedAt = usedRegion.bytes.byteOffset + used - usedRegion.userAddress;
    if (tableAt % 16 !== 0 || availableAt % 2 !== 0 || usedAt % 4 !== 0) return 'misaligned';
    this.#size = size;
    this.#descriptors = new Uint32Array(table.bytes.buffer, tableAt, 4 * size);
    this.#available = new Uint16Array(availableRegion.bytes.buffer, availableAt, 3 + size);
    this.#used = new Uint16Array(usedRegion.bytes.buffer, usedAt, 3 + 4 * size);
    this.#usedElements = new Uint32Array(usedRegion.bytes.buffer, usedAt, 1 + 2 * size);
    return undefined;
  }
}

const NO_WORDS: Uint32Array = new Uint32Array(4);
const NO_HALFWORDS: Uint16Array = new Uint16Array(4);
