/**
 * The guest's half of a vsock device, for tests: both rings and their buffers in one piece of memory, as a driver keeps
 * them. It can also do what no driver should: raw descriptors, wrong headers.
 */
import { HEADER_BYTES } from '../../src/machine/vsock/packet.ts';
import type { RingAddresses } from '../../src/machine/vsock/ring-memory.ts';

/** An atomic read-modify-write is a full barrier on x86-64. */
const FENCE = new Int32Array(new SharedArrayBuffer(4));

/** Base of the VMM's addresses, different from guest addresses so that a mix-up shows. */
export const USER_BASE = 0x7f00_0000_0000;
export const GUEST_BASE = 0x10_0000;
const RING_BYTES = 0x8000;
const DESCRIPTOR_NEXT = 1;
const DESCRIPTOR_WRITE = 2;
const USED_NO_NOTIFY = 1;

export interface GuestPacket {
  readonly op: number;
  readonly hostPort: number;
  readonly guestPort: number;
  readonly flags?: number;
  readonly bufAlloc?: number;
  readonly fwdCount?: number;
  readonly payload?: Uint8Array;
  readonly sourceCid?: bigint;
  readonly destinationCid?: bigint;
  readonly type?: number;
  /** The `len` that the header claims. Default: the payload's. */
  readonly length?: number;
}

export interface HostPacket {
  readonly op: number;
  readonly hostPort: number;
  readonly guestPort: number;
  readonly flags: number;
  readonly bufAlloc: number;
  readonly fwdCount: number;
  readonly payload: Uint8Array;
}

export interface GuestRingsOptions {
  readonly guestCid: number;
  readonly queueSize: number;
  /** Sizes of the descriptors of each RX chain; the last one is not repeated. */
  readonly rxCuts: readonly number[];
  /** Sizes of the first descriptors of a TX chain; the rest goes into one more. */
  readonly txCuts: readonly number[];
  /** Base of the VMM's addresses. Default: one that is not mapped. */
  readonly userBase?: number;
}

const TX_SLOT_BYTES = 72 * 1024;

/** Memory that the rings and buffers of these options need. */
export function guestMemoryBytes(options: GuestRingsOptions): number {
  const rxBytes = options.rxCuts.reduce((sum, size) => sum + size, 0);
  const chains = rxChains(options);
  return 2 * RING_BYTES + chains * rxBytes + txSlots(options) * TX_SLOT_BYTES;
}

const rxChains = (options: GuestRingsOptions): number => Math.floor(options.queueSize / options.rxCuts.length);
const txSlots = (options: GuestRingsOptions): number => Math.floor(options.queueSize / (options.txCuts.length + 1));

export class GuestRings {
  readonly #options: GuestRingsOptions;
  readonly view: DataView;
  readonly #bytes: Uint8Array;
  readonly #rx: DriverRing;
  readonly #tx: DriverRing;
  readonly #freeSlots: number[] = [];
  readonly #slotOfHead = new Map<number, number>();
  readonly #rxOffsetOfHead = new Map<number, number>();
  readonly #txBase: number;

  constructor(buffer: ArrayBuffer, options: GuestRingsOptions) {
    this.#options = options;
    this.view = new DataView(buffer);
    this.#bytes = new Uint8Array(buffer);
    this.#rx = new DriverRing(this.view, 0, options.queueSize, options.userBase);
    this.#tx = new DriverRing(this.view, RING_BYTES, options.queueSize, options.userBase);
    const rxBytes = options.rxCuts.reduce((sum, size) => sum + size, 0);
    for (let index = 0; index < rxChains(options); index += 1) {
      const offset = 2 * RING_BYTES + index * rxBytes;
      const head = index * options.rxCuts.length;
      let at = offset;
      for (const [step, size] of options.rxCuts.entries()) {
        const isLast = step === options.rxCuts.length - 1;
        const flags = DESCRIPTOR_WRITE | (isLast ? 0 : DESCRIPTOR_NEXT);
        this.#rx.setDescriptor(head + step, GUEST_BASE + at, size, flags, head + step + 1);
        at += size;
      }
      this.#rxOffsetOfHead.set(head, offset);
      this.#rx.makeAvailable(head);
    }
    this.#txBase = 2 * RING_BYTES + rxChains(options) * rxBytes;
    for (let slot = 0; slot < txSlots(options); slot += 1) this.#freeSlots.push(slot);
  }

  get rx(): DriverRing {
    return this.#rx;
  }

  get tx(): DriverRing {
    return this.#tx;
  }

  /** Puts a packet into the TX ring. @returns false if the ring is full */
  send(packet: GuestPacket): boolean {
    this.#reclaim();
    const slot = this.#freeSlots.pop();
    if (slot === undefined) return false;
    const { guestCid, txCuts } = this.#options;
    const at = this.#txBase + slot * TX_SLOT_BYTES;
    const payload = packet.payload ?? new Uint8Array(0);
    this.view.setBigUint64(at, packet.sourceCid ?? BigInt(guestCid), true);
    this.view.setBigUint64(at + 8, packet.destinationCid ?? 2n, true);
    this.view.setUint32(at + 16, packet.guestPort, true);
    this.view.setUint32(at + 20, packet.hostPort, true);
    this.view.setUint32(at + 24, packet.length ?? payload.length, true);
    this.view.setUint16(at + 28, packet.type ?? 1, true);
    this.view.setUint16(at + 30, packet.op, true);
    this.view.setUint32(at + 32, packet.flags ?? 0, true);
    this.view.setUint32(at + 36, packet.bufAlloc ?? 0, true);
    this.view.setUint32(at + 40, packet.fwdCount ?? 0, true);
    this.#bytes.set(payload, at + HEADER_BYTES);
    const head = slot * (txCuts.length + 1);
    let left = HEADER_BYTES + payload.length;
    let from = at;
    let index = head;
    for (const cut of [...txCuts, left]) {
      const size = Math.min(cut, left);
      left -= size;
      this.#tx.setDescriptor(index, GUEST_BASE + from, size, left > 0 ? DESCRIPTOR_NEXT : 0, index + 1);
      from += size;
      index += 1;
      if (left === 0) break;
    }
    this.#slotOfHead.set(head, slot);
    this.#tx.makeAvailable(head);
    return true;
  }

  /** Takes packets out of the RX ring, at most `max`, and returns the buffers. */
  receive(max = Number.POSITIVE_INFINITY): HostPacket[] {
    const packets: HostPacket[] = [];
    while (packets.length < max) {
      const used = this.#rx.takeUsed();
      if (used === undefined) break;
      const at = this.#rxOffsetOfHead.get(used.head);
      if (at === undefined) throw new Error(`device returned RX chain ${used.head}`);
      const length = this.view.getUint32(at + 24, true);
      if (used.written !== HEADER_BYTES + length) throw new Error(`${used.written} bytes for ${length}`);
      packets.push({
        guestPort: this.view.getUint32(at + 20, true),
        hostPort: this.view.getUint32(at + 16, true),
        op: this.view.getUint16(at + 30, true),
        flags: this.view.getUint32(at + 32, true),
        bufAlloc: this.view.getUint32(at + 36, true),
        fwdCount: this.view.getUint32(at + 40, true),
        payload: this.#bytes.slice(at + HEADER_BYTES, at + HEADER_BYTES + length),
      });
      this.#rx.makeAvailable(used.head);
    }
    return packets;
  }

  #reclaim(): void {
    for (let used = this.#tx.takeUsed(); used !== undefined; used = this.#tx.takeUsed()) {
      const slot = this.#slotOfHead.get(used.head);
      if (slot === undefined) throw new Error(`device returned TX chain ${used.head} twice`);
      this.#slotOfHead.delete(used.head);
      this.#freeSlots.push(slot);
    }
  }
}

/** One split ring, seen by its driver. */
export class DriverRing {
  readonly #view: DataView;
  readonly #base: number;
  readonly #size: number;
  readonly #usedBase: number;
  readonly #userBase: number;
  #availableIndex = 0;
  #usedIndex = 0;
  #kickedIndex = 0;

  constructor(view: DataView, base: number, size: number, userBase = USER_BASE) {
    this.#view = view;
    this.#userBase = userBase;
    this.#base = base;
    this.#size = size;
    this.#usedBase = base + 0x6000;
  }

  /** The content of SET_VRING_ADDR. */
  get addresses(): RingAddresses {
    return {
      size: this.#size,
      descriptors: this.#userBase + this.#base,
      available: this.#userBase + this.#base + 16 * this.#size,
      used: this.#userBase + this.#usedBase,
    };
  }

  setDescriptor(index: number, address: number, length: number, flags: number, next: number): void {
    const at = this.#base + 16 * index;
    this.#view.setBigUint64(at, BigInt(address), true);
    this.#view.setUint32(at + 8, length, true);
    this.#view.setUint16(at + 12, flags, true);
    this.#view.setUint16(at + 14, next % this.#size, true);
  }

  makeAvailable(head: number): void {
    const ring = this.#base + 16 * this.#size;
    this.#view.setUint16(ring + 4 + 2 * (this.#availableIndex % this.#size), head, true);
    this.#availableIndex = (this.#availableIndex + 1) & 0xffff;
    this.#view.setUint16(ring + 2, this.#availableIndex, true);
  }

  /** True if a chain was made available since the last call, and the device did not suppress kicks. */
  wantsKick(): boolean {
    if (this.#kickedIndex === this.#availableIndex) return false;
    this.#kickedIndex = this.#availableIndex;
    // Like virtio_mb() in Linux: without it the processor may read the flag before the index is visible, while the
    // device does the same the other way round, and both wait for each other.
    Atomics.add(FENCE, 0, 0);
    return (this.#view.getUint16(this.#usedBase, true) & USED_NO_NOTIFY) === 0;
  }

  takeUsed(): { head: number; written: number } | undefined {
    if (this.#view.getUint16(this.#usedBase + 2, true) === this.#usedIndex) return undefined;
    const at = this.#usedBase + 4 + 8 * (this.#usedIndex % this.#size);
    this.#usedIndex = (this.#usedIndex + 1) & 0xffff;
    return { head: this.#view.getUint32(at, true), written: this.#view.getUint32(at + 4, true) };
  }
}
