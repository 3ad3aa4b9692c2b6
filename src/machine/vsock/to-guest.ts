/**
 * Host → guest: packets on their way into RX buffers. Control packets go first; then connections with something to read
 * take turns. One readv(2) fills the payload parts of many buffers at once, straight from the host socket; then each
 * buffer that got bytes gets its header, and the rest stay available.
 *
 * Without credit, tokens or buffers a socket is simply not read: the host program waits.
 */
import type { TokenBucket } from '../../base/token-bucket.ts';
import { type Connection, OWES, READ_HINT_FIRST } from './connection.ts';
import { READ_BROKEN, READ_WOULD_BLOCK } from './host-socket.ts';
import { GRANT_BYTES_MAX, PACKET_BYTES_MAX, RESETS_QUEUED_MAX, TURN_BYTES_MAX } from './limits.ts';
import { HEADER_BYTES, OP, writeToGuest } from './packet.ts';
import type { LocalMemory } from './ring-memory.ts';
import { Segments } from './segments.ts';
import type { Virtqueue } from './virtqueue.ts';

/** Buffers that one read may fill. */
const CHAINS_PER_READ_MAX = 256;
/** Buffers that one `feed` may use, so that a guest that returns them at once can't keep us busy forever. */
const CHAINS_PER_FEED_MAX = 1024;

interface ToGuestEvents {
  /** The host's input ended, or its socket broke; everything that came before is in the ring. */
  hostEnded(connection: Connection, isBroken: boolean): void;
  /** A buffer that can't hold a header was returned unused. */
  badBuffer(): void;
}

/** `done`: nothing is left to send now; `starved`: the guest provides no buffers. */
export type FeedResult = 'done' | 'starved' | 'more' | 'broken';

export class ToGuest {
  readonly #guestCid: number;
  readonly #bucket: TokenBucket;
  readonly #events: ToGuestEvents;
  /** Resets for unknown or former connections: pairs of ports, oldest first. */
  readonly #resets: { hostPort: number; guestPort: number; bufAlloc: 0; fwdCount: 0 }[] = [];
  readonly #control = new Set<Connection>();
  readonly #readable = new Set<Connection>();
  readonly #segments = new Segments();
  readonly #heads = new Uint16Array(CHAINS_PER_READ_MAX);
  readonly #parts = new Uint32Array(CHAINS_PER_READ_MAX);
  readonly #headerRegions: (LocalMemory | undefined)[] = new Array(CHAINS_PER_READ_MAX);
  readonly #headerOffsets = new Float64Array(CHAINS_PER_READ_MAX);
  readonly #scratch = new Uint8Array(HEADER_BYTES);
  readonly #scratchView = new DataView(this.#scratch.buffer);
  #bytes = 0;

  constructor(guestCid: number, bucket: TokenBucket, events: ToGuestEvents) {
    this.#guestCid = guestCid;
    this.#bucket = bucket;
    this.#events = events;
  }

  /** Payload bytes put into the ring since the start. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Sockets wait to be read, perhaps for tokens. */
  get isWaiting(): boolean {
    return this.#readable.size > 0;
  }

  /** Something could be sent if there were buffers. */
  get hasControl(): boolean {
    return this.#control.size > 0 || this.#resets.length > 0;
  }

  /** @param bits from `OWES` */
  owe(connection: Connection, bits: number): void {
    connection.owes |= bits;
    this.#control.add(connection);
  }

  /** Beyond the limit the reset is dropped: a guest that provides no buffers gets no answer, but costs nothing. */
  oweReset(hostPort: number, guestPort: number): void {
    if (this.#resets.length >= RESETS_QUEUED_MAX) return;
    this.#resets.push({ hostPort, guestPort, bufAlloc: 0, fwdCount: 0 });
  }

  /** The host socket may have bytes, or credit came for bytes that wait there. */
  noteReadable(connection: Connection): void {
    if (connection.sendsHostData) this.#readable.add(connection);
  }

  forget(connection: Connection): void {
    this.#control.delete(connection);
    this.#readable.delete(connection);
  }

  /** Forgets what is owed to a guest that is gone. */
  clear(): void {
    this.#resets.length = 0;
    this.#control.clear();
    this.#readable.clear();
  }

  /** Fills RX buffers; the caller publishes them. */
  feed(rx: Virtqueue, nowMs: number): FeedResult {
    for (let used = 0; used < CHAINS_PER_FEED_MAX; ) {
      const hasControl = this.hasControl;
      if (!hasControl && this.#readable.size === 0) return 'done';
      if (!hasControl && !this.#bucket.tryOpen(nowMs)) return 'done';
      const peek = rx.peek(0);
      if (peek !== 'chain') return peek === 'broken' ? 'broken' : 'starved';
      if (rx.chain.bytes < HEADER_BYTES + 1) {
        this.#events.badBuffer();
        rx.complete(rx.chain.head, 0);
        rx.consume(1);
        used += 1;
      } else if (hasControl) {
        this.#sendControl(rx);
        used += 1;
      } else used += this.#sendData(rx);
    }
    return 'more';
  }

  #sendControl(rx: Virtqueue): void {
    const reset = this.#resets.shift();
    if (reset !== undefined) {
      this.#send(rx, reset, OP.reset, 0);
      return;
    }
    for (const connection of this.#control) {
      const { owes } = connection;
      let bit: number;
      let op: number;
      if (owes & OWES.request) [bit, op] = [OWES.request, OP.request];
      else if (owes & OWES.response) [bit, op] = [OWES.response, OP.response];
      else if (owes & OWES.credit) [bit, op] = [OWES.credit, OP.creditUpdate];
      else [bit, op] = [OWES.shutdown, OP.shutdown];
      this.#send(rx, connection, op, op === OP.shutdown ? connection.shutdownFlags : 0);
      connection.noteAdvertised();
      connection.owes &= ~bit;
      if (connection.owes === 0) this.#control.delete(connection);
      return;
    }
  }

  /** Writes a packet without payload into the chain that was just peeked. */
  #send(rx: Virtqueue, packet: Parameters<typeof writeToGuest>[3], op: number, flags: number): void {
    const head = rx.chain.head;
    this.#writeSplitHeader(rx, packet, op, flags, 0);
    rx.complete(head, HEADER_BYTES);
    rx.consume(1);
  }

  /** Reads one socket into as many buffers as it takes. @returns the number of used buffers */
  #sendData(rx: Virtqueue): number {
    const [connection] = this.#readable;
    if (connection === undefined) return 0;
    this.#readable.delete(connection);
    if (!connection.sendsHostData) return 0;
    const credit = connection.credit;
    // `Muxer` notes it readable again when credit comes.
    if (credit === 0) return 0;
    const turn = this.#bucket.isLimited ? GRANT_BYTES_MAX : TURN_BYTES_MAX;
    const chains = this.#gather(rx, Math.min(credit, connection.readHint, turn));
    const wanted = this.#segments.bytes;
    const received = connection.socket?.read(this.#segments) ?? READ_BROKEN;
    if (received <= 0) {
      if (received !== READ_WOULD_BLOCK) this.#events.hostEnded(connection, received === READ_BROKEN);
      return 0;
    }
    const used = this.#fill(rx, connection, chains, received);
    this.#bytes += received;
    this.#bucket.spend(received);
    connection.noteSent(received);
    if (received === wanted) connection.readHint = Math.min(TURN_BYTES_MAX, wanted * 2);
    else connection.readHint = Math.max(READ_HINT_FIRST, received);
    // A short read emptied the socket, and the next bytes will be an event; an end of input will not.
    if (received === wanted || connection.isHostInputEnding) this.#readable.add(connection);
    return used;
  }

  /** Collects room for `bytes` of payload. The chain at the front of the ring was peeked already. */
  #gather(rx: Virtqueue, bytes: number): number {
    this.#segments.clear();
    let left = bytes;
    let count = 0;
    while (left > 0 && count < CHAINS_PER_READ_MAX) {
      if (count > 0 && rx.peek(count) !== 'chain') break;
      const { chain } = rx;
      if (chain.bytes <= HEADER_BYTES || this.#segments.free < chain.count) break;
      const isSplit = (chain.lengths[0] ?? 0) < HEADER_BYTES;
      if (isSplit && count > 0) break;
      const part = Math.min(chain.bytes - HEADER_BYTES, left, PACKET_BYTES_MAX);
      this.#heads[count] = chain.head;
      this.#parts[count] = part;
      this.#headerRegions[count] = isSplit ? undefined : chain.region(0);
      this.#headerOffsets[count] = chain.offsets[0] ?? 0;
      this.#segments.pushChain(chain, HEADER_BYTES, part);
      left -= part;
      count += 1;
      if (isSplit) break;
    }
    return count;
  }

  /** Gives a header to each buffer that got some of the `received` bytes. */
  #fill(rx: Virtqueue, connection: Connection, chains: number, received: number): number {
    let left = received;
    let used = 0;
    for (; used < chains && left > 0; used += 1) {
      const length = Math.min(left, this.#parts[used] ?? 0);
      const region = this.#headerRegions[used];
      if (region === undefined) this.#writeSplitHeader(rx, connection, OP.data, 0, length);
      else {
        const at = this.#headerOffsets[used] ?? 0;
        writeToGuest(region.view, at, this.#guestCid, connection, OP.data, 0, length);
      }
      rx.complete(this.#heads[used] ?? 0, HEADER_BYTES + length);
      left -= length;
    }
    rx.consume(used);
    connection.noteAdvertised();
    if (connection.owes & OWES.credit) {
      connection.owes &= ~OWES.credit;
      if (connection.owes === 0) this.#control.delete(connection);
    }
    return used;
  }

  /** Writes a header into the chain that was just peeked, however its buffers are split (2.7.4.2). */
  #writeSplitHeader(
    rx: Virtqueue,
    packet: Parameters<typeof writeToGuest>[3],
    op: number,
    flags: number,
    length: number,
  ): void {
    writeToGuest(this.#scratchView, 0, this.#guestCid, packet, op, flags, length);
    const { chain } = rx;
    let at = 0;
    for (let index = 0; at < HEADER_BYTES; index += 1) {
      const size = Math.min(chain.lengths[index] ?? 0, HEADER_BYTES - at);
      const offset = chain.offsets[index] ?? 0;
      chain.region(index).bytes.set(this.#scratch.subarray(at, at + size), offset);
      at += size;
    }
  }
}
