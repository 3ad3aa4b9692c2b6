/**
 * One vhost-user-vsock device: joins a VMM's session, guest memory, two rings and the muxer to the epoll
 * loop of the worker. Everything here runs on the worker thread, and none of it blocks.
 *
 *     VMM ── vhost-user socket ──► VhostUserSession ──► memory, rings, eventfds
 *     guest ── kick ──► epoll ──► run ──► Muxer ──► rings ── call ──► guest
 *     host program ── unix socket ──► epoll ──► Muxer
 */

import { randomInt } from 'node:crypto';
import type { ChannelLimits, ChannelStats } from '../../base/channel.ts';
import { describeError } from '../../base/errors.ts';
import { EPOLL, type Epoll } from '../../sys/epoll.ts';
import type { EventSignaler } from '../../sys/event-signal.ts';
import { closeFd, type FileIdentity, fileIdentity, fileSize, isEventFd } from '../../sys/fd.ts';
import { ERRNO, SyscallError } from '../../sys/libc.ts';
import { type Mapping, mapShared } from '../../sys/memory.ts';
import { acceptUnix, FdChannel } from '../../sys/socket.ts';
import { EMPTY_MEMORY, MappedMemory, makeRegion, RemoteMemory } from './guest-memory.ts';
import { LINGER_MS, MESSAGE_FDS_MAX, VHOST_PAYLOAD_BYTES_MAX } from './limits.ts';
import { Muxer } from './muxer.ts';
import { Ring } from './ring.ts';
import type { RingAddresses, RingSource } from './ring-memory.ts';
import type { Scratch } from './scratch.ts';
import { ChannelListener, dialHost, type SocketEvents, UdsSocket } from './uds.ts';
import { type RegionRequest, RX, TX, VhostUserSession, type VhostUserTarget } from './vhost-user.ts';
import type { Virtqueue } from './virtqueue.ts';

export interface DeviceClosed {
  readonly reason: /** `detach` or `close` was called. */
    | 'detached'
    /** The VMM closed its connection: it ended, or gave the device up. */
    | 'vmm-disconnected'
    /** The VMM or the guest's driver broke the protocol; `detail` says how. */
    | 'protocol-error'
    /** A bug in this code; only this device is lost. */
    | 'internal-error';
  readonly detail: string;
}

interface DeviceOptions {
  readonly guestCid: number;
  readonly channelPath: string;
  readonly limits: ChannelLimits;
  readonly guestPorts: ReadonlySet<number> | undefined;
  /** The only file that is mapped; undefined: any file. */
  readonly memory: FileIdentity | undefined;
  /** Guest memory is never mapped, but copied through the descriptor of `setProcessMemory`. */
  readonly copiesMemory: boolean;
  readonly scratch: Scratch;
  /** Listening sockets; the device owns and closes them. */
  readonly vhostFd: number;
  readonly channelFd: number;
  readonly epoll: Epoll;
  readonly signaler: EventSignaler;
  /**
   * Closes descriptors of any kind that came from the VMM, on another thread: the last close of some kinds takes long
   * (memory with gigabytes of pages, a KVM machine).
   */
  discard(fds: readonly number[]): void;
  /** Monotonic milliseconds. */
  now(): number;
  /** Asks the loop to call `run` soon. */
  wake(device: Device): void;
  closed(device: Device, closed: DeviceClosed): void;
}

/** vhost-user messages handled before other devices get a turn. */
const MESSAGES_PER_EVENT_MAX = 64;

export class Device implements VhostUserTarget, SocketEvents {
  readonly #options: DeviceOptions;
  readonly #muxer: Muxer;
  readonly #channel: ChannelListener;
  readonly #session: VhostUserSession;
  readonly #messages = new FdChannel(Math.max(VHOST_PAYLOAD_BYTES_MAX, 512), MESSAGE_FDS_MAX);
  readonly #rx: Ring;
  readonly #tx: Ring;
  #listenFd: number;
  #vhostFd = -1;
  #memory: RingSource = EMPTY_MEMORY;
  #processMemoryFd = -1;
  #mappings: Mapping[] = [];
  #isRxStarved = true;
  /** Set when the VMM is gone and bytes still flow to the host. */
  #lingersUntilMs: number | undefined;
  #isClosed = false;

  constructor(options: DeviceOptions) {
    const { epoll, signaler } = options;
    this.#options = options;
    this.#muxer = new Muxer(
      {
        guestCid: options.guestCid,
        limits: options.limits,
        guestPorts: options.guestPorts,
        clientPortSeed: randomInt(2 ** 30),
        connect: (port) => dialHost(options.channelPath, port, epoll, this),
      },
      options.now(),
    );
    const wake = (): void => options.wake(this);
    this.#rx = new Ring('device-writes', epoll, signaler, wake);
    this.#tx = new Ring('device-reads', epoll, signaler, wake);
    this.#session = new VhostUserSession(this, options.guestCid);
    this.#channel = new ChannelListener(options.channelFd, epoll, options.now, (fd, port) =>
      this.#guard(() => this.#addClient(fd, port)),
    );
    this.#listenFd = options.vhostFd;
    epoll.add(this.#listenFd, EPOLL.in, { onEvents: () => this.#guard(() => this.#accept()) });
  }

  stats(): ChannelStats {
    return this.#muxer.stats(this.#options.now());
  }

  setLimits(limits: ChannelLimits): void {
    this.#muxer.setLimits(limits, this.#options.now());
    this.#options.wake(this);
  }

  /** Takes ownership of `fd`, the VMM's memory (`openProcessMemory`). Called once, before the VMM connects. */
  setProcessMemory(fd: number): void {
    // Rings may be using the first one.
    if (this.#processMemoryFd >= 0) closeFd(fd);
    else this.#processMemoryFd = fd;
  }

  detach(): void {
    this.#close({ reason: 'detached', detail: '' });
  }

  /**
   * Moves what can be moved, within bounds so that other guests get their turn.
   * @returns whether there is more to do at once
   */
  run(nowMs: number): boolean {
    let hasMore = false;
    this.#guard(() => {
      this.#channel.handleTime(nowMs);
      this.#muxer.handleTime(nowMs);
      hasMore = this.#runTx(nowMs);
      if (!this.#isClosed) hasMore = this.#runRx(nowMs) || hasMore;
      if (!this.#isClosed) this.#lingerDone(nowMs);
    });
    return hasMore && !this.#isClosed;
  }

  /** Milliseconds until `run` has something to do without an event; Infinity if nothing. */
  nextTimeoutMs(nowMs: number): number {
    return Math.min(
      this.#muxer.nextTimeoutMs(nowMs),
      this.#channel.nextTimeoutMs(nowMs),
      Math.max(0, (this.#lingersUntilMs ?? Number.POSITIVE_INFINITY) - nowMs),
    );
  }

  // ── rings ────────────────────────────────────────────────────────────────────────────────────────

  #runTx(nowMs: number): boolean {
    const ring = this.#tx;
    const { queue } = ring;
    if (!ring.isLive) return false;
    queue.suppressKicks();
    const result = this.#muxer.drainGuest(queue, queue.size, nowMs);
    if (result === 'done') queue.prepareKickRequest();
    // Buffers go back once per turn. Holding them back longer to save interrupts left throughput unchanged and made
    // round trips longer.
    if (result !== 'broken') ring.publish();
    const hasMore = result === 'more' || queue.requestKick();
    return this.#isSound('TX', queue) && hasMore;
  }

  #runRx(nowMs: number): boolean {
    const ring = this.#rx;
    const { queue } = ring;
    if (!ring.isLive) return false;
    const result = this.#muxer.feedGuest(queue, nowMs);
    ring.publish();
    let hasMore = result === 'more';
    if (result === 'starved') {
      this.#isRxStarved = true;
      hasMore = queue.requestKick();
    } else if (this.#isRxStarved) {
      this.#isRxStarved = false;
      queue.suppressKicks();
    }
    return this.#isSound('RX', queue) && hasMore;
  }

  /** Called at the end of a turn: a store may also find a fault, and no event of the guest has to follow. */
  #isSound(name: 'TX' | 'RX', { problem }: Virtqueue): boolean {
    if (problem !== undefined) this.#fail(`${name} ring: ${problem}`);
    return problem === undefined;
  }

  // ── what the session asks for ────────────────────────────────────────────────────────────────────

  setMemory(requests: readonly RegionRequest[]): string | undefined {
    const mappings: Mapping[] = [];
    const isRemote = this.#options.copiesMemory;
    const problem = isRemote ? this.#remoteProblem() : this.#map(requests, mappings);
    const memory = isRemote
      ? new RemoteMemory(this.#processMemoryFd, requests, this.#options.scratch)
      : mappedMemory(requests, mappings);
    const trouble = problem ?? this.#rx.relocate(memory) ?? this.#tx.relocate(memory);
    if (trouble !== undefined) {
      // Rings may point into the new memory by now; the session ends, so they are not used again.
      this.#rx.queue.stop();
      this.#tx.queue.stop();
      for (const mapping of mappings) mapping.unmap();
      return trouble;
    }
    this.#unmap();
    this.#memory = memory;
    this.#mappings = mappings;
    return undefined;
  }

  startRing(
    index: number,
    addresses: RingAddresses,
    base: number,
    usesEventIndex: boolean,
    kickFd: number,
  ): string | undefined {
    const problem = this.#ring(index).start(this.#memory, addresses, base, usesEventIndex, kickFd);
    if (index === RX) this.#isRxStarved = true;
    this.#options.wake(this);
    return problem === undefined ? undefined : `ring ${index}: ${problem}`;
  }

  stopRing(index: number): number {
    const ring = this.#ring(index);
    // Data that the guest sent before it stopped still counts: the last output of a VM that powers off.
    if (index === TX && ring.isLive) this.#drainRest(ring);
    return ring.stop();
  }

  /** Takes as many chains as a ring holds; there may not be room for the bytes of all at once. */
  #drainRest(ring: Ring): void {
    const { queue } = ring;
    for (let left = queue.size; left > 0; ) {
      this.#muxer.drainGuest(queue, left, this.#options.now());
      const { staged } = queue;
      if (staged === 0) return;
      left -= staged;
      ring.publish();
    }
  }

  enableRing(index: number, isEnabled: boolean): void {
    this.#ring(index).isEnabled = isEnabled;
    this.#options.wake(this);
  }

  setCall(index: number, fd: number): void {
    this.#ring(index).setCall(fd);
  }

  reset(): void {
    this.#muxer.guestGone(this.#options.now());
  }

  isEventFd(fd: number): boolean {
    return isEventFd(fd);
  }

  closeFd(fd: number): void {
    closeFd(fd);
  }

  discard(fds: readonly number[]): void {
    if (fds.length > 0) this.#options.discard(fds);
  }

  // ── what sockets report ──────────────────────────────────────────────────────────────────────────

  readable(connection: Parameters<SocketEvents['readable']>[0], isEnding: boolean): void {
    this.#guard(() => this.#muxer.hostReadable(connection, isEnding));
    this.#options.wake(this);
  }

  hasRoom(connection: Parameters<SocketEvents['hasRoom']>[0]): void {
    this.#guard(() => this.#muxer.hostHasRoom(connection));
    this.#options.wake(this);
  }

  hungUp(connection: Parameters<SocketEvents['hungUp']>[0]): void {
    this.#guard(() => this.#muxer.hostHungUp(connection, this.#options.now()));
    this.#options.wake(this);
  }

  #addClient(fd: number, port: number): void {
    const { epoll, now, wake } = this.#options;
    this.#muxer.addClient(new UdsSocket(fd, epoll, this), port, now());
    wake(this);
  }

  // ── the VMM ──────────────────────────────────────────────────────────────────────────────────────

  /** One front end per device: the closed listener refuses later ones. */
  #accept(): void {
    const fd = acceptUnix(this.#listenFd);
    if (fd < 0) return;
    this.#closeListener();
    this.#vhostFd = fd;
    const onEvents = (): void => this.#guard(() => this.#receive());
    this.#options.epoll.add(fd, EPOLL.in, { onEvents });
  }

  #receive(): void {
    for (let count = 0; count < MESSAGES_PER_EVENT_MAX && this.#vhostFd >= 0; count += 1) {
      const part = this.#messages.receive(this.#vhostFd, this.#session.wantedBytes);
      if (part.received === -ERRNO.EAGAIN || part.received === -ERRNO.EINTR) return;
      if (part.received <= 0) {
        this.discard(part.fds);
        this.#vmmGone();
        return;
      }
      const outcome = this.#session.receive(part.data, part.fds);
      const problem = part.truncated ? 'more descriptors than any message has' : undefined;
      if (!outcome.ok || problem !== undefined) {
        this.#fail(`vhost-user: ${outcome.ok ? problem : outcome.problem}`);
        return;
      }
      const { reply } = outcome;
      if (reply !== undefined && this.#messages.send(this.#vhostFd, reply) !== reply.length) {
        this.#fail('vhost-user: replies are not read');
        return;
      }
    }
  }

  #vmmGone(): void {
    const nowMs = this.#options.now();
    this.stopRing(TX);
    this.stopRing(RX);
    this.#muxer.guestGone(nowMs);
    this.#closeVmm();
    this.#lingersUntilMs = nowMs + LINGER_MS;
    this.#lingerDone(nowMs);
  }

  #lingerDone(nowMs: number): void {
    if (this.#lingersUntilMs === undefined) return;
    if (this.#muxer.connections > 0 && nowMs < this.#lingersUntilMs) return;
    this.#close({ reason: 'vmm-disconnected', detail: '' });
  }

  #fail(detail: string): void {
    this.#close({ reason: 'protocol-error', detail });
  }

  #close(closed: DeviceClosed): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#muxer.close();
    this.#channel.close();
    this.#closeListener();
    this.#closeVmm();
    this.#options.closed(this, closed);
  }

  #closeVmm(): void {
    this.#session.close();
    this.#rx.close();
    this.#tx.close();
    this.#unmap();
    if (this.#processMemoryFd >= 0) closeFd(this.#processMemoryFd);
    this.#processMemoryFd = -1;
    if (this.#vhostFd < 0) return;
    this.#options.epoll.remove(this.#vhostFd);
    // Messages that were not received may carry descriptors, which are closed with the socket.
    this.discard([this.#vhostFd]);
    this.#vhostFd = -1;
  }

  #closeListener(): void {
    if (this.#listenFd < 0) return;
    this.#options.epoll.remove(this.#listenFd);
    closeFd(this.#listenFd);
    this.#listenFd = -1;
  }

  // ── memory ───────────────────────────────────────────────────────────────────────────────────────

  /** Pushes a mapping per request. @returns a problem, or undefined */
  #map(requests: readonly RegionRequest[], mappings: Mapping[]): string | undefined {
    for (const { fd, fileOffset, size } of requests) {
      // A file of the VMM's own choice could be truncated (touching it is then SIGBUS, the end of this process), have
      // no huge page to back it (likewise), or be charged to this process page by page.
      if (!this.#isGuestMemory(fd)) return 'a region of another file than the memory of this VM';
      const fileBytes = fileSize(fd);
      if (fileBytes < fileOffset + size)
        return `a region that ends at ${fileOffset + size} of a file of ${fileBytes} bytes`;
      try {
        mappings.push(mapShared(fd, fileOffset, size));
      } catch (error) {
        if (error instanceof SyscallError) return error.message;
        throw error;
      }
    }
    return undefined;
  }

  #remoteProblem(): string | undefined {
    return this.#processMemoryFd < 0 ? 'memory of a process that is not known' : undefined;
  }

  #isGuestMemory(fd: number): boolean {
    const { memory } = this.#options;
    if (memory === undefined) return true;
    const { dev, ino } = fileIdentity(fd);
    return dev === memory.dev && ino === memory.ino;
  }

  #unmap(): void {
    const mappings = this.#mappings;
    this.#mappings = [];
    this.#memory = EMPTY_MEMORY;
    for (const mapping of mappings) mapping.unmap();
  }

  #ring(index: number): Ring {
    return index === RX ? this.#rx : this.#tx;
  }

  /** A bug while serving one guest must not affect the others. */
  #guard(action: () => void): void {
    if (this.#isClosed) return;
    try {
      action();
    } catch (error) {
      this.#close({ reason: 'internal-error', detail: describeError(error) });
    }
  }
}

function mappedMemory(requests: readonly RegionRequest[], mappings: readonly Mapping[]): MappedMemory {
  return new MappedMemory(
    mappings.map(({ address, buffer }, index) => {
      const request = requests[index];
      return makeRegion(request?.guestAddress ?? 0, request?.userAddress ?? 0, address, buffer);
    }),
  );
}
