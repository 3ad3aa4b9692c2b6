/**
 * The back-end half of the vhost-user protocol (QEMU, docs/interop/vhost-user.rst): how a VMM hands over
 * guest memory and rings. Pure: bytes and descriptors come in, replies go out, effects go to a
 * `VhostUserTarget`.
 *
 *     u32 request · u32 flags (version 1, reply 4, need-reply 8) · u32 size · payload
 *
 * A front end is trusted as little as a guest. Anything unexpected is a `problem`, after which the
 * session is over; no descriptor that came in is ever lost: it is handed on or closed.
 */
import { GUEST_MEMORY_BYTES_MAX, MEMORY_REGIONS_MAX, VHOST_PAYLOAD_BYTES_MAX } from './limits.ts';
import type { RingAddresses } from './ring-memory.ts';

export const REQUEST = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  resetOwner: 4,
  setMemTable: 5,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  getVringBase: 11,
  setVringKick: 12,
  setVringCall: 13,
  setVringErr: 14,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  getQueueNum: 17,
  setVringEnable: 18,
  getConfig: 24,
} as const;

const REQUESTS_WITH_FDS: ReadonlySet<number> = new Set([
  REQUEST.setMemTable,
  REQUEST.setVringKick,
  REQUEST.setVringCall,
  REQUEST.setVringErr,
]);

export const MESSAGE_HEADER_BYTES = 12;
const FLAG_VERSION = 1;
const FLAG_REPLY = 4;
const FLAG_NEED_REPLY = 8;
/** In SET_VRING_KICK, CALL and ERR: no descriptor comes with the message. */
const NO_FD = 0x100;

const FEATURE_EVENT_INDEX = 1n << 29n;
const FEATURE_PROTOCOL = 1n << 30n;
const FEATURE_VERSION_1 = 1n << 32n;
export const FEATURES = FEATURE_VERSION_1 | FEATURE_PROTOCOL | FEATURE_EVENT_INDEX;
const PROTOCOL_REPLY_ACK = 1n << 3n;
const PROTOCOL_CONFIG = 1n << 9n;
export const PROTOCOL_FEATURES = PROTOCOL_REPLY_ACK | PROTOCOL_CONFIG;

/** RX and TX; the event queue stays with the VMM. */
const RING_COUNT = 2;
export const RX = 0;
export const TX = 1;

/** `VHOST_USER_MAX_CONFIG_SIZE`. */
const CONFIG_BYTES_MAX = 256;
const REGION_RECORD_BYTES = 32;

export interface RegionRequest {
  readonly guestAddress: number;
  readonly userAddress: number;
  readonly size: number;
  /** Offset of the region in the file behind `fd`. */
  readonly fileOffset: number;
  readonly fd: number;
}

/** Effects of a session. A returned string is a problem and ends the session. */
export interface VhostUserTarget {
  /** Replaces guest memory; running rings continue in the new one. Closes nothing: the session does. */
  setMemory(regions: readonly RegionRequest[]): string | undefined;
  /** Starts ring `index` at chain `base`. The target owns the kick descriptor, even on failure. */
  startRing(
    index: number,
    ring: RingAddresses,
    base: number,
    usesEventIndex: boolean,
    kickFd: number,
  ): string | undefined;
  /** Stops ring `index` after processing what is in it. @returns the next chain to process */
  stopRing(index: number): number;
  /** A disabled ring moves no data. */
  enableRing(index: number, isEnabled: boolean): void;
  /** Replaces the interrupt of ring `index`; −1: none. The target owns the descriptor. */
  setCall(index: number, fd: number): void;
  /** A new device at the front end: no connection of the old one is left. */
  reset(): void;
  /** Whether it is the descriptor of an event counter. */
  isEventFd(fd: number): boolean;
  /** Closes an event counter, or a file that `setMemory` took. */
  closeFd(fd: number): void;
  /** Closes descriptors of any kind: a hostile front end chose them. */
  discard(fds: readonly number[]): void;
}

interface RingState {
  size: number;
  addresses: { descriptors: number; available: number; used: number } | undefined;
  base: number;
  isStarted: boolean;
}

type MessageResult =
  | { readonly ok: true; readonly reply: Uint8Array | undefined }
  | { readonly ok: false; readonly problem: string };

const DONE: MessageResult = { ok: true, reply: undefined };
const failed = (problem: string): MessageResult => ({ ok: false, problem });

export class VhostUserSession {
  readonly #target: VhostUserTarget;
  readonly #guestCid: number;
  readonly #rings: RingState[] = Array.from({ length: RING_COUNT }, () => ({
    size: 0,
    addresses: undefined,
    base: 0,
    isStarted: false,
  }));
  #features = 0n;
  #protocolFeatures = 0n;
  readonly #header = new Uint8Array(MESSAGE_HEADER_BYTES);
  #headerLength = 0;
  #payload = new Uint8Array(0);
  #payloadLength = 0;
  #fds: number[] = [];

  constructor(target: VhostUserTarget, guestCid: number) {
    this.#target = target;
    this.#guestCid = guestCid;
  }

  /** How many bytes the next read should ask for, so that no message is read beyond its end. */
  get wantedBytes(): number {
    return this.#headerLength < MESSAGE_HEADER_BYTES
      ? MESSAGE_HEADER_BYTES - this.#headerLength
      : this.#payload.length - this.#payloadLength;
  }

  /** Takes at most `wantedBytes` and the descriptors that came with them, which the session owns from now on. */
  receive(bytes: Uint8Array, fds: readonly number[]): MessageResult {
    this.#fds.push(...fds);
    if (this.#fds.length > MEMORY_REGIONS_MAX) return this.#end('too many descriptors');
    if (this.#headerLength < MESSAGE_HEADER_BYTES) {
      this.#header.set(bytes, this.#headerLength);
      this.#headerLength += bytes.length;
      if (this.#headerLength < MESSAGE_HEADER_BYTES) return DONE;
      const size = new DataView(this.#header.buffer).getUint32(8, true);
      if (size > VHOST_PAYLOAD_BYTES_MAX) return this.#end(`a message of ${size} bytes`);
      this.#payload = new Uint8Array(size);
      this.#payloadLength = 0;
    } else {
      this.#payload.set(bytes, this.#payloadLength);
      this.#payloadLength += bytes.length;
    }
    if (this.#payloadLength < this.#payload.length) return DONE;
    return this.#dispatch();
  }

  /** Closes descriptors of an incomplete message. */
  close(): void {
    if (this.#fds.length > 0) this.#target.discard(this.#fds.splice(0));
  }

  #end(problem: string): MessageResult {
    this.close();
    return failed(problem);
  }

  #dispatch(): MessageResult {
    this.#headerLength = 0;
    const header = new DataView(this.#header.buffer);
    const request = header.getUint32(0, true);
    const flags = header.getUint32(4, true);
    if ((flags & 3) !== FLAG_VERSION || (flags & FLAG_REPLY) !== 0)
      return this.#end(`flags ${flags} of request ${request}`);
    const outcome =
      this.#fds.length > 0 && !REQUESTS_WITH_FDS.has(request)
        ? failed(`${this.#fds.length} descriptors`)
        : this.#handle(request, new DataView(this.#payload.buffer));
    // Descriptors that no handler took are closed here, whatever happened.
    if (!outcome.ok) return this.#end(`request ${request}: ${outcome.problem}`);
    for (const fd of this.#fds.splice(0)) this.#target.closeFd(fd);
    const needsReply = (flags & FLAG_NEED_REPLY) !== 0;
    if (outcome.reply === undefined && needsReply && this.#protocolFeatures & PROTOCOL_REPLY_ACK)
      return this.#u64Reply(0n);
    return outcome;
  }

  #handle(request: number, payload: DataView): MessageResult {
    const size = payload.byteLength;
    switch (request) {
      case REQUEST.getFeatures:
        return this.#u64Reply(FEATURES);
      case REQUEST.getProtocolFeatures:
        return this.#u64Reply(PROTOCOL_FEATURES);
      case REQUEST.getQueueNum:
        return this.#u64Reply(BigInt(RING_COUNT));
      case REQUEST.setOwner:
      case REQUEST.resetOwner:
        this.#reset();
        return DONE;
      case REQUEST.setFeatures:
        return size < 8 ? SHORT : this.#setFeatures(payload.getBigUint64(0, true));
      case REQUEST.setProtocolFeatures:
        if (size < 8) return SHORT;
        this.#protocolFeatures = payload.getBigUint64(0, true) & PROTOCOL_FEATURES;
        return DONE;
      case REQUEST.setMemTable:
        return size < 8 ? SHORT : this.#setMemTable(payload);
      case REQUEST.getConfig:
        return size < 12 ? SHORT : this.#getConfig(payload);
      case REQUEST.setVringNum:
      case REQUEST.setVringBase:
      case REQUEST.getVringBase:
      case REQUEST.setVringEnable:
        return size < 8 ? SHORT : this.#vringState(request, payload.getUint32(0, true), payload.getUint32(4, true));
      case REQUEST.setVringAddr:
        return size < 40 ? SHORT : this.#setVringAddr(payload);
      case REQUEST.setVringKick:
      case REQUEST.setVringCall:
      case REQUEST.setVringErr:
        return size < 8 ? SHORT : this.#vringFd(request, payload.getUint32(0, true));
      default:
        return failed('unknown');
    }
  }

  #reset(): void {
    for (const [index, ring] of this.#rings.entries()) {
      if (ring.isStarted) this.#target.stopRing(index);
      ring.isStarted = false;
      ring.base = 0;
      ring.addresses = undefined;
    }
    this.#target.reset();
  }

  #setFeatures(features: bigint): MessageResult {
    if ((features & ~FEATURES) !== 0n) return failed(`features ${features} that were not offered`);
    this.#features = features;
    // A front end without protocol features never sends SET_VRING_ENABLE.
    if ((features & FEATURE_PROTOCOL) === 0n)
      for (const index of this.#rings.keys()) this.#target.enableRing(index, true);
    return DONE;
  }

  #setMemTable(payload: DataView): MessageResult {
    const count = payload.getUint32(0, true);
    if (count === 0 || count > MEMORY_REGIONS_MAX) return failed(`${count} memory regions`);
    if (payload.byteLength < 8 + count * REGION_RECORD_BYTES) return SHORT;
    if (this.#fds.length !== count) return failed(`${this.#fds.length} descriptors for ${count}`);
    const regions: RegionRequest[] = [];
    let total = 0;
    for (const [index, fd] of this.#fds.entries()) {
      const at = 8 + index * REGION_RECORD_BYTES;
      const field = (offset: number): number => Number(payload.getBigUint64(at + offset, true));
      const region = { guestAddress: field(0), size: field(8), userAddress: field(16), fileOffset: field(24), fd };
      if (region.size === 0) return failed('an empty memory region');
      total += region.size;
      const ends = [region.guestAddress, region.userAddress, region.fileOffset];
      if (ends.some((start) => start + region.size > Number.MAX_SAFE_INTEGER))
        return failed('a memory region beyond 2⁵³');
      regions.push(region);
    }
    if (total > GUEST_MEMORY_BYTES_MAX) return failed(`${total} bytes of guest memory`);
    if (overlaps(regions, (region) => region.guestAddress)) return failed('overlapping regions');
    const problem = this.#target.setMemory(regions);
    return problem === undefined ? DONE : failed(problem);
  }

  /** The configuration space is the guest's CID, u64 (virtio 1.2, 5.10.4). */
  #getConfig(payload: DataView): MessageResult {
    const offset = payload.getUint32(0, true);
    const size = payload.getUint32(4, true);
    if (size > CONFIG_BYTES_MAX || offset > CONFIG_BYTES_MAX - size) return failed(`configuration ${offset}+${size}`);
    const space = new DataView(new ArrayBuffer(CONFIG_BYTES_MAX));
    space.setBigUint64(0, BigInt(this.#guestCid), true);
    const body = new Uint8Array(12 + size);
    const view = new DataView(body.buffer);
    view.setUint32(0, offset, true);
    view.setUint32(4, size, true);
    view.setUint32(8, payload.getUint32(8, true), true);
    body.set(new Uint8Array(space.buffer, offset, size), 12);
    return this.#reply(body);
  }

  #vringState(request: number, index: number, value: number): MessageResult {
    const ring = this.#rings[index];
    if (ring === undefined) return failed(`ring ${index}`);
    switch (request) {
      case REQUEST.setVringNum:
        if (ring.isStarted) return failed(`size of ring ${index} while it runs`);
        ring.size = value;
        return DONE;
      case REQUEST.setVringBase:
        if (ring.isStarted) return failed(`base of ring ${index} while it runs`);
        // A base other than ours: the guest has reset its device, so all state is void.
        if (value !== ring.base) this.#target.reset();
        ring.base = value & 0xffff;
        return DONE;
      case REQUEST.setVringEnable:
        if (value > 1) return failed(`enable ${value}`);
        this.#target.enableRing(index, value === 1);
        return DONE;
      default: {
        if (ring.isStarted) ring.base = this.#target.stopRing(index);
        ring.isStarted = false;
        const body = new Uint8Array(8);
        new DataView(body.buffer).setUint32(0, index, true);
        new DataView(body.buffer).setUint32(4, ring.base, true);
        return this.#reply(body);
      }
    }
  }

  #setVringAddr(payload: DataView): MessageResult {
    const index = payload.getUint32(0, true);
    const ring = this.#rings[index];
    if (ring === undefined) return failed(`ring ${index}`);
    if (ring.isStarted) return failed(`addresses of ring ${index} while it runs`);
    const address = (at: number): number => Number(payload.getBigUint64(at, true));
    // Flag 1 requests logging of writes for migration, which is not offered.
    if (payload.getUint32(4, true) !== 0) return failed('ring flags');
    ring.addresses = { descriptors: address(8), used: address(16), available: address(24) };
    return DONE;
  }

  #vringFd(request: number, value: number): MessageResult {
    const index = value & 0xff;
    const ring = this.#rings[index];
    if (ring === undefined) return failed(`ring ${index}`);
    const hasFd = (value & NO_FD) === 0;
    if (this.#fds.length !== (hasFd ? 1 : 0)) return failed(`${this.#fds.length} descriptors`);
    if (this.#fds.some((fd) => !this.#target.isEventFd(fd)))
      return failed(`a descriptor for ring ${index} that is no eventfd`);
    if (request === REQUEST.setVringErr) return DONE;
    if (request === REQUEST.setVringCall) {
      this.#target.setCall(index, this.#fds.pop() ?? -1);
      return DONE;
    }
    if (!hasFd) return failed(`ring ${index} without kicks`);
    if (ring.addresses === undefined) return failed(`kick of ring ${index} without addresses`);
    if (ring.isStarted) ring.base = this.#target.stopRing(index);
    const usesEventIndex = (this.#features & FEATURE_EVENT_INDEX) !== 0n;
    const kickFd = this.#fds.pop() ?? -1;
    const addresses = { size: ring.size, ...ring.addresses };
    const problem = this.#target.startRing(index, addresses, ring.base, usesEventIndex, kickFd);
    ring.isStarted = problem === undefined;
    return problem === undefined ? DONE : failed(problem);
  }

  #u64Reply(value: bigint): MessageResult {
    const body = new Uint8Array(8);
    new DataView(body.buffer).setBigUint64(0, value, true);
    return this.#reply(body);
  }

  #reply(body: Uint8Array): MessageResult {
    const reply = new Uint8Array(MESSAGE_HEADER_BYTES + body.length);
    reply.set(this.#header.subarray(0, 4));
    new DataView(reply.buffer).setUint32(4, FLAG_VERSION | FLAG_REPLY, true);
    new DataView(reply.buffer).setUint32(8, body.length, true);
    reply.set(body, MESSAGE_HEADER_BYTES);
    return { ok: true, reply };
  }
}

const SHORT: MessageResult = failed('payload too short');

function overlaps(regions: readonly RegionRequest[], start: (region: RegionRequest) => number): boolean {
  const sorted = regions.toSorted((a, b) => start(a) - start(b));
  return sorted.some((region, index) => {
    const previous = sorted[index - 1];
    return previous !== undefined && start(previous) + previous.size > start(region);
  });
}
