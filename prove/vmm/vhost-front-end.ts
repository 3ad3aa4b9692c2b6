/**
 * A VMM as far as a vhost-user device can tell: shares memory, hands over rings, and runs a guest's driver in this
 * process. Over the real socket, with real descriptors, against the real worker.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MESSAGE_HEADER_BYTES, PROTOCOL_FEATURES, REQUEST } from '../../src/machine/vsock/vhost-user.ts';
import { closeFd, createEventFd, createMemFd, drainEventFd, signalEventFd, writeBytes } from '../../src/sys/fd.ts';
import { ERRNO, libc } from '../../src/sys/libc.ts';
import { type Mapping, mapShared } from '../../src/sys/memory.ts';
import { connectUnix, FdChannel } from '../../src/sys/socket.ts';
import { GuestPeer } from './guest-peer.ts';
import { type DriverRing, GUEST_BASE, GuestRings, type GuestRingsOptions, guestMemoryBytes } from './guest-rings.ts';

const FEATURES = (1n << 32n) | (1n << 30n);
/** For a device that hangs; a slow one may have to wait for a processor. */
const REPLY_TIMEOUT_MS = 30_000;
/** The largest counter that write(2) reaches: the next write has no room. */
const COUNTER_MAX = 2n ** 64n - 2n;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;
const setFlags = libc.func('int fcntl(int fd, int command, int flags)');

export class VhostFrontEnd {
  readonly rings: GuestRings;
  readonly guest: GuestPeer;
  readonly guestCid: number;
  readonly #fd: number;
  readonly #channel = new FdChannel(4096, 8);
  readonly memoryFd: number;
  readonly #mapping: Mapping;
  readonly #bytes: number;
  readonly #userBase: number;
  readonly #kickFds = [createEventFd(), createEventFd()];
  readonly #callFds = [createEventFd(), createEventFd()];
  #isClosed = false;

  private constructor(path: string, guestCid: number, options: Partial<GuestRingsOptions>, memoryFd?: number) {
    const rings = { queueSize: 128, rxCuts: [3776], txCuts: [44], ...options, guestCid };
    this.guestCid = guestCid;
    this.#fd = connectUnix(path);
    if (this.#fd < 0) throw new Error(`connect ${path}: ${this.#fd}`);
    this.#bytes = Math.ceil(guestMemoryBytes(rings) / 4096) * 4096;
    this.memoryFd = memoryFd ?? createMemFd('guest', this.#bytes);
    this.#mapping = mapShared(this.memoryFd, 0, this.#bytes);
    // A device that copies uses the address itself, one that maps the file.
    this.#userBase = this.#mapping.address;
    this.rings = new GuestRings(this.#mapping.buffer, { ...rings, userBase: this.#userBase });
    this.guest = new GuestPeer(this.rings, 256 * 1024);
  }

  /** Connects and sends QEMU's messages up to a running device. */
  static async start(path: string, guestCid: number, options: Partial<GuestRingsOptions> = {}): Promise<VhostFrontEnd> {
    const frontEnd = new VhostFrontEnd(path, guestCid, options);
    await frontEnd.negotiate();
    frontEnd.shareMemory();
    frontEnd.startRings([0, 0]);
    // An answer shows that everything before it was processed.
    await frontEnd.ask(REQUEST.getFeatures);
    return frontEnd;
  }

  /**
   * Connects and sends nothing.
   * @param memoryFd owned by the front end: the guest's memory, large enough for the default rings
   */
  static connect(path: string, guestCid: number, memoryFd?: number): VhostFrontEnd {
    return new VhostFrontEnd(path, guestCid, {}, memoryFd);
  }

  async negotiate(): Promise<void> {
    await this.ask(REQUEST.getFeatures);
    await this.ask(REQUEST.getProtocolFeatures);
    this.tell(REQUEST.setProtocolFeatures, u64(PROTOCOL_FEATURES));
    this.tell(REQUEST.setOwner);
    const config = await this.ask(REQUEST.getConfig, u32(0, 8, 0, 0, 0));
    const cid = new DataView(config.buffer, config.byteOffset + 12).getBigUint64(0, true);
    if (cid !== BigInt(this.guestCid)) throw new Error(`device says CID ${cid}`);
    this.tell(REQUEST.setFeatures, u64(FEATURES));
  }

  /**
   * @param claimedBytes size of the file that the table claims
   * @param fd another file than the guest's memory
   * @param userBase base of its addresses of the memory
   */
  shareMemory(claimedBytes = this.#bytes, fd = this.memoryFd, userBase = this.#userBase): void {
    const record = u64(1n, BigInt(GUEST_BASE), BigInt(claimedBytes), BigInt(userBase), 0n);
    this.tell(REQUEST.setMemTable, record, [fd]);
  }

  /**
   * @param fds stand in for kick and call of both rings
   * @param userBase as in `shareMemory`
   */
  startRings(bases: readonly number[], fds: { kick?: number; call?: number } = {}, userBase = this.#userBase): void {
    const move = userBase - this.#userBase;
    for (const [index, ring] of [this.rings.rx, this.rings.tx].entries()) {
      const { size, descriptors, used, available } = ring.addresses;
      this.tell(REQUEST.setVringNum, u32(index, size));
      this.tell(REQUEST.setVringBase, u32(index, bases[index] ?? 0));
      const places = [descriptors, used, available].map((address) => BigInt(address + move));
      const addresses = [BigInt(index), ...places, 0n];
      this.tell(REQUEST.setVringAddr, u64(...addresses));
      this.tell(REQUEST.setVringCall, u64(BigInt(index)), [fds.call ?? this.#callFds[index] ?? -1]);
      this.tell(REQUEST.setVringKick, u64(BigInt(index)), [fds.kick ?? this.#kickFds[index] ?? -1]);
      this.tell(REQUEST.setVringEnable, u32(index, 1));
    }
  }

  /** @returns the bases to start again from */
  async stopRings(): Promise<number[]> {
    const bases: number[] = [];
    for (const index of [0, 1]) {
      const reply = await this.ask(REQUEST.getVringBase, u32(index, 0));
      bases.push(new DataView(reply.buffer, reply.byteOffset).getUint32(4, true));
    }
    return bases;
  }

  /** One turn of the guest; kicks the queues that it filled. */
  pump(max?: number): void {
    this.guest.pump(max);
    for (const [index, ring] of [this.rings.rx, this.rings.tx].entries())
      if (ring.wantsKick()) signalEventFd(this.#kickFds[index] ?? -1);
  }

  /** Runs the guest until `isDone`. @throws after `timeoutMs`. */
  async until(isDone: () => boolean, what: string, timeoutMs = 20_000): Promise<void> {
    const endMs = performance.now() + timeoutMs;
    while (!isDone()) {
      if (performance.now() > endMs) throw new Error(`waited for ${what}`);
      this.pump();
      await nextTurn();
    }
  }

  kick(ring: DriverRing): void {
    signalEventFd(this.#kickFds[ring === this.rings.rx ? 0 : 1] ?? -1);
  }

  /** Like a compromised VMM: a write to a call eventfd from now on blocks until `close`. */
  blockCalls(): void {
    for (const fd of this.#callFds) {
      // The device may signal at any moment, and a write that blocks would wait for ever for room.
      do drainEventFd(fd);
      while (writeBytes(fd, u64(COUNTER_MAX)) < 0);
      setFlags(fd, F_SETFL, 0);
    }
  }

  tell(request: number, payload: Uint8Array = new Uint8Array(0), fds: readonly number[] = []): void {
    const message = new Uint8Array(MESSAGE_HEADER_BYTES + payload.length);
    message.set(u32(request, 1, payload.length));
    message.set(payload, MESSAGE_HEADER_BYTES);
    this.tellRaw(message, fds);
  }

  tellRaw(message: Uint8Array, fds: readonly number[] = []): number {
    return this.#channel.send(this.#fd, message, fds);
  }

  /** @returns the payload of the reply */
  async ask(request: number, payload?: Uint8Array): Promise<Uint8Array> {
    this.tell(request, payload);
    const header = await this.#read(MESSAGE_HEADER_BYTES);
    return this.#read(new DataView(header.buffer).getUint32(8, true));
  }

  /** Unmaps the memory from its own address. Nothing of `rings` may be used afterwards. */
  unmap(): void {
    this.#mapping.unmap();
  }

  /** Ends like a killed VMM. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const fd of this.#callFds) {
      setFlags(fd, F_SETFL, O_NONBLOCK);
      drainEventFd(fd);
    }
    for (const fd of [this.#fd, this.memoryFd, ...this.#kickFds, ...this.#callFds]) closeFd(fd);
    this.#mapping.unmap();
  }

  async #read(bytes: number): Promise<Uint8Array> {
    const endMs = performance.now() + REPLY_TIMEOUT_MS;
    const all = new Uint8Array(bytes);
    for (let at = 0; at < bytes; ) {
      const { received, data } = this.#channel.receive(this.#fd, bytes - at);
      if (received === -ERRNO.EAGAIN && performance.now() < endMs) {
        await nextTurn();
        continue;
      }
      if (received <= 0) throw new Error(`device does not answer: ${received}`);
      all.set(data, at);
      at += received;
    }
    return all;
  }
}

function u32(...values: number[]): Uint8Array {
  return new Uint8Array(new Uint32Array(values).buffer);
}

function u64(...values: bigint[]): Uint8Array {
  return new Uint8Array(new BigUint64Array(values).buffer);
}
