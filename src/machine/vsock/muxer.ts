/**
 * The vsock device of one guest, without rings, sockets or time of its own: which connections there are,
 * and what each packet, socket event and passed time limit means for them.
 *
 *     TX ring ─► drainGuest ─► Connection ─► ToHost ──► host socket
 *     RX ring ◄─ feedGuest ◄── Connection ◄─ ToGuest ◄─ host socket
 *
 * A connection is a pair of ports. The guest opens one with REQUEST and gets RESPONSE or RST; so do we
 * for a host client. Data flows while the receiver has announced room: each header carries the sender's
 * window (`buf_alloc`) and how much it has taken out so far (`fwd_cnt`), and no side sends more than fits.
 * SHUTDOWN ends one direction or both, RST ends all.
 *
 * The guest is hostile: a packet that makes no sense is answered by RST of that connection, or dropped if
 * there is no connection; it is always counted, and always consumed.
 */
import type { ChannelLimits, ChannelStats } from '../../base/channel.ts';
import { TokenBucket } from '../../base/token-bucket.ts';
import { Admission } from './admission.ts';
import { ClientPorts } from './client-ports.ts';
import { Connection, type ConnectionEvent, OWES } from './connection.ts';
import { ConnectionTable } from './connection-table.ts';
import { Deadlines } from './deadlines.ts';
import { okLine } from './handshake.ts';
import { HeaderReader } from './header-reader.ts';
import type { ConnectResult, HostSocket } from './host-socket.ts';
import {
  CLOSE_TIMEOUT_MS,
  CONNECTIONS_MAX,
  HELD_BYTES_MAX,
  PACKET_BYTES_MAX,
  REQUEST_TIMEOUT_MS,
  WINDOW_BYTES_MAX,
  WINDOW_BYTES_MIN,
} from './limits.ts';
import { HEADER_BYTES, OP, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND } from './packet.ts';
import type { Chain } from './ring-memory.ts';
import { type FeedResult, ToGuest } from './to-guest.ts';
import { ToHost } from './to-host.ts';
import { ChunkPool } from './tx-buffer.ts';
import type { Virtqueue } from './virtqueue.ts';

export interface MuxerOptions {
  readonly guestCid: number;
  readonly limits: ChannelLimits;
  /** Host ports that the guest may dial; undefined: any. */
  readonly guestPorts?: ReadonlySet<number> | undefined;
  /** First port for host clients: a guest may remember ports of its last device, from its snapshot. */
  readonly clientPortSeed?: number;
  connect(hostPort: number): ConnectResult<Connection>;
}

/** What remains of the budget when every connection has its least window. */
const SHARED_WINDOW_BYTES = HELD_BYTES_MAX - CONNECTIONS_MAX * WINDOW_BYTES_MIN;

export class Muxer {
  readonly #options: MuxerOptions;
  readonly #table = new ConnectionTable();
  /** Connections that the guest has forgotten and whose bytes still flow to the host. */
  readonly #draining = new Set<Connection>();
  readonly #deadlines = new Deadlines();
  readonly #chunks = new ChunkPool();
  readonly #toHostBucket: TokenBucket;
  readonly #toGuestBucket: TokenBucket;
  readonly #connectionBucket: TokenBucket;
  readonly #admission: Admission;
  readonly #toHost: ToHost;
  readonly #toGuest: ToGuest;
  readonly #headers: HeaderReader;
  readonly #clientPorts: ClientPorts;
  #nowMs: number;
  #sharedWindowFree = SHARED_WINDOW_BYTES;
  #opened = 0;
  #refused = 0;
  #protocolErrors = 0;

  constructor(options: MuxerOptions, nowMs: number) {
    this.#options = options;
    this.#headers = new HeaderReader(options.guestCid);
    this.#nowMs = nowMs;
    this.#clientPorts = new ClientPorts(options.clientPortSeed ?? 0);
    this.#toHostBucket = new TokenBucket(options.limits.guestToHostBytes, nowMs);
    this.#toGuestBucket = new TokenBucket(options.limits.hostToGuestBytes, nowMs);
    this.#connectionBucket = new TokenBucket(options.limits.connections, nowMs);
    this.#admission = new Admission(this.#connectionBucket, options.connect, {
      clientAdmitted: (connection) => this.#clientAdmitted(connection),
      guestAdmitted: (connection, socket) => this.#guestAdmitted(connection, socket),
      refused: (connection) => {
        this.#refused += 1;
        this.#fail(connection);
      },
    });
    this.#toHost = new ToHost(this.#toHostBucket, {
      creditDue: (connection) => this.#creditDue(connection),
      drained: (connection) => this.#drained(connection),
      hostDeaf: (connection) => this.#hostDeaf(connection),
    });
    this.#toGuest = new ToGuest(options.guestCid, this.#toGuestBucket, {
      hostEnded: (connection, isBroken) => this.#hostEnded(connection, isBroken),
      badBuffer: () => {
        this.#protocolErrors += 1;
      },
    });
  }

  get connections(): number {
    return this.#table.size + this.#draining.size;
  }

  stats(nowMs: number): ChannelStats {
    return {
      bytesGuestToHost: this.#toHost.bytes,
      bytesHostToGuest: this.#toGuest.bytes,
      connectionsOpened: this.#opened,
      connectionsOpen: this.connections,
      connectionsRefused: this.#refused,
      throttledMsGuestToHost: this.#toHostBucket.throttledMs(nowMs),
      throttledMsHostToGuest: this.#toGuestBucket.throttledMs(nowMs),
      protocolErrors: this.#protocolErrors,
    };
  }

  setLimits(limits: ChannelLimits, nowMs: number): void {
    this.#toHostBucket.setLimit(limits.guestToHostBytes, nowMs);
    this.#toGuestBucket.setLimit(limits.hostToGuestBytes, nowMs);
    this.#connectionBucket.setLimit(limits.connections, nowMs);
  }

  // ── guest ────────────────────────────────────────────────────────────────────────────────────────

  /** Handles up to `chainsMax` packets of the TX ring; the caller publishes them as done. */
  drainGuest(tx: Virtqueue, chainsMax: number, nowMs: number): 'done' | 'more' | 'broken' {
    this.#nowMs = nowMs;
    let result: 'done' | 'more' | 'broken' = 'more';
    for (let taken = 0; taken < chainsMax; taken += 1) {
      const peek = tx.peek(0);
      if (peek !== 'chain') {
        result = peek === 'broken' ? 'broken' : 'done';
        break;
      }
      const { head } = tx.chain;
      tx.consume(1);
      this.#receive(tx.chain);
      tx.complete(head, 0);
    }
    this.#toHost.flush(nowMs);
    return result;
  }

  /** Fills the RX ring with owed packets and readable data; the caller publishes it. */
  feedGuest(rx: Virtqueue, nowMs: number): FeedResult {
    this.#nowMs = nowMs;
    return this.#toGuest.feed(rx, nowMs);
  }

  /** The guest is gone or was reset: nothing comes from it or goes to it any more. */
  guestGone(nowMs: number): void {
    this.#nowMs = nowMs;
    for (const connection of this.#table.all()) this.#guestForgot(connection);
    this.#toGuest.clear();
  }

  /** Drops everything, including held bytes. */
  close(): void {
    for (const connection of [...this.#table.all(), ...this.#draining]) this.#take(connection, 'fail');
    this.#toGuest.clear();
  }

  // ── host ─────────────────────────────────────────────────────────────────────────────────────────

  /**
   * A host client asks for a connection to a port of the guest; the muxer owns its socket from now on.
   * @returns false, with the socket closed, if there are too many connections
   */
  addClient(socket: HostSocket<Connection>, guestPort: number, nowMs: number): boolean {
    this.#nowMs = nowMs;
    if (this.connections >= CONNECTIONS_MAX) {
      this.#refused += 1;
      socket.close();
      return false;
    }
    const connection = this.#create(this.#clientPorts.next(this.#table), guestPort, true);
    connection.socket = socket;
    socket.serve(connection);
    this.#admission.add(connection, this.#nowMs);
    return true;
  }

  /** The host socket may have bytes. @param isEnding the end of input comes after them */
  hostReadable(connection: Connection, isEnding: boolean): void {
    if (isEnding) connection.isHostInputEnding = true;
    this.#toGuest.noteReadable(connection);
  }

  hostHasRoom(connection: Connection): void {
    this.#toHost.hostHasRoom(connection);
  }

  /** The host program closed its end. Bytes that it wrote before are still read, if the guest takes them. */
  hostHungUp(connection: Connection, nowMs: number): void {
    this.#nowMs = nowMs;
    connection.isHostHungUp = true;
    connection.isHostInputEnding = true;
    if (connection.sendsHostData) this.#toGuest.noteReadable(connection);
    else this.#hostEnded(connection, true);
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────

  /** Milliseconds until `handleTime` has something to do; Infinity if nothing. */
  nextTimeoutMs(nowMs: number): number {
    let wait = this.#deadlines.nextMs - nowMs;
    if (this.#toHost.isWaiting) wait = Math.min(wait, this.#toHostBucket.waitMs(nowMs));
    if (this.#toGuest.isWaiting && this.#toGuestBucket.isLimited) {
      // Without a wait for tokens it waits for credit or buffers, and those come as events.
      const tokens = this.#toGuestBucket.waitMs(nowMs);
      if (tokens > 0) wait = Math.min(wait, tokens);
    }
    return Math.max(0, Math.min(wait, this.#admission.nextTimeoutMs(nowMs)));
  }

  /** Continues connections that waited for tokens or room, and ends those that timed out. */
  handleTime(nowMs: number): void {
    this.#nowMs = nowMs;
    this.#toHost.writeHeld(nowMs);
    this.#admission.admit(nowMs);
    this.#deadlines.expire(nowMs, (connection) => this.#fail(connection));
  }

  // ── packets ──────────────────────────────────────────────────────────────────────────────────────

  #receive(chain: Chain): void {
    const header = this.#headers.header;
    const problem = chain.bytes < HEADER_BYTES ? 'short' : this.#headers.read(chain);
    if (problem !== undefined) {
      this.#protocolErrors += 1;
      if (problem === 'unknown-type' && header.op !== OP.reset)
        this.#toGuest.oweReset(header.hostPort, header.guestPort);
      return;
    }
    const connection = this.#table.find(header.hostPort, header.guestPort);
    if (connection === undefined) {
      if (header.op === OP.request) this.#request();
      else if (header.op !== OP.reset) this.#toGuest.oweReset(header.hostPort, header.guestPort);
      return;
    }
    const credit = connection.credit;
    connection.updateCredit(header.bufAlloc, header.fwdCount);
    if (credit === 0 && connection.credit > 0) this.#toGuest.noteReadable(connection);
    if (header.op === OP.data) {
      this.#data(connection, chain);
      return;
    }
    this.#toHost.flush(this.#nowMs);
    switch (header.op) {
      case OP.response:
        this.#response(connection);
        break;
      case OP.reset:
        this.#guestForgot(connection);
        break;
      case OP.shutdown:
        this.#shutdown(connection, header.flags);
        break;
      case OP.creditUpdate:
        break;
      case OP.creditRequest:
        this.#toGuest.owe(connection, OWES.credit);
        break;
      // A second REQUEST, or an operation that does not exist.
      default:
        this.#violation(connection);
    }
  }

  #data(connection: Connection, chain: Chain): void {
    const { length } = this.#headers.header;
    const isClaimTrue = length <= chain.bytes - HEADER_BYTES && length <= PACKET_BYTES_MAX;
    if (!isClaimTrue) this.#violation(connection);
    // Data that crossed our SHUTDOWN on its way has no receiver.
    else if (connection.state === 'closing') return;
    else if (!connection.acceptsGuestData) this.#violation(connection);
    else if (!connection.hasRoomFor(length, this.#toHost.gathered(connection))) this.#violation(connection);
    else if (length > 0) this.#toHost.deliver(connection, chain, length, this.#nowMs);
  }

  #request(): void {
    const { hostPort, guestPort, bufAlloc, fwdCount } = this.#headers.header;
    const { guestPorts } = this.#options;
    const isAllowed = guestPorts === undefined || guestPorts.has(hostPort);
    if (!isAllowed || this.connections >= CONNECTIONS_MAX) {
      this.#refused += 1;
      this.#toGuest.oweReset(hostPort, guestPort);
      return;
    }
    const connection = this.#create(hostPort, guestPort, false);
    connection.updateCredit(bufAlloc, fwdCount);
    this.#admission.add(connection, this.#nowMs);
  }

  #response(connection: Connection): void {
    if (!connection.fromHost || !connection.transition('response')) {
      this.#violation(connection);
      return;
    }
    this.#deadlines.set(connection, Number.POSITIVE_INFINITY);
    this.#opened += 1;
    const line = okLine(connection.hostPort);
    // A new socket has room for one line; if it does not take it, its peer is gone.
    if (connection.socket?.writeHeld(line) === line.length) this.#toGuest.noteReadable(connection);
    else this.#hostEnded(connection, true);
  }

  #shutdown(connection: Connection, flags: number): void {
    connection.guestShutdownFlags |= flags & SHUTDOWN_BOTH;
    if (connection.guestShutdownFlags === SHUTDOWN_BOTH) {
      this.#toGuest.oweReset(connection.hostPort, connection.guestPort);
      this.#guestForgot(connection);
      return;
    }
    if (flags & SHUTDOWN_RECEIVE) connection.socket?.endRead();
    if ((flags & SHUTDOWN_SEND) === 0) return;
    if (!connection.transition('guest-end-send')) {
      this.#violation(connection);
      return;
    }
    if (connection.held.length === 0) connection.socket?.endWrite();
    if (connection.state === 'closing') this.#close(connection);
  }

  #violation(connection: Connection): void {
    this.#protocolErrors += 1;
    this.#fail(connection);
  }

  // ── life of a connection ─────────────────────────────────────────────────────────────────────────

  #create(hostPort: number, guestPort: number, fromHost: boolean): Connection {
    const extraMax = WINDOW_BYTES_MAX - WINDOW_BYTES_MIN;
    const extra = Math.min(extraMax, Math.floor(this.#sharedWindowFree / 8));
    this.#sharedWindowFree -= extra;
    const connection = new Connection(hostPort, guestPort, fromHost, WINDOW_BYTES_MIN + extra, this.#chunks);
    this.#table.add(connection);
    return connection;
  }

  #clientAdmitted(connection: Connection): void {
    connection.transition('admit-host');
    this.#deadlines.set(connection, this.#nowMs + REQUEST_TIMEOUT_MS);
    this.#toGuest.owe(connection, OWES.request);
  }

  #guestAdmitted(connection: Connection, socket: HostSocket<Connection>): void {
    this.#opened += 1;
    connection.transition('admit-guest');
    connection.socket = socket;
    socket.serve(connection);
    this.#toGuest.owe(connection, OWES.response);
  }

  #creditDue(connection: Connection): void {
    if (connection.acceptsGuestData) this.#toGuest.owe(connection, OWES.credit);
  }

  #drained(connection: Connection): void {
    if (connection.state === 'draining') this.#take(connection, 'drained');
    else if (connection.state === 'guest-ended' || connection.state === 'closing') connection.socket?.endWrite();
  }

  /** The host reads no more, but bytes that it wrote are still valid. */
  #hostDeaf(connection: Connection): void {
    if (connection.state === 'draining') {
      this.#take(connection, 'drained');
      return;
    }
    connection.isHostInputEnding = true;
    if (connection.sendsHostData) {
      this.#oweShutdown(connection, SHUTDOWN_RECEIVE);
      this.#toGuest.noteReadable(connection);
    } else this.#hostEnded(connection, true);
  }

  #hostEnded(connection: Connection, isBroken: boolean): void {
    const isGone = isBroken || connection.isHostHungUp;
    if (!isGone) {
      if (!connection.transition('host-end-send')) return;
      if (connection.state === 'closing') this.#close(connection);
      else this.#oweShutdown(connection, SHUTDOWN_SEND);
      return;
    }
    const mustReset = connection.state === 'requested';
    this.#take(connection, 'host-gone');
    if (mustReset) this.#toGuest.oweReset(connection.hostPort, connection.guestPort);
    if (connection.state !== 'closing') return;
    this.#dropSocket(connection);
    this.#close(connection);
  }

  /** The guest has forgotten the connection: its ports are free, and only held bytes remain. */
  #guestForgot(connection: Connection): void {
    this.#take(connection, 'guest-end-both');
    if (connection.state !== 'draining') return;
    this.#table.delete(connection);
    this.#toGuest.forget(connection);
    this.#deadlines.set(connection, Number.POSITIVE_INFINITY);
    this.#draining.add(connection);
    if (connection.held.length === 0) this.#take(connection, 'drained');
  }

  #oweShutdown(connection: Connection, flags: number): void {
    connection.shutdownFlags |= flags;
    this.#toGuest.owe(connection, OWES.shutdown);
  }

  /** In state `closing`: tells the guest, which has some time to confirm. */
  #close(connection: Connection): void {
    if (connection.shutdownFlags !== SHUTDOWN_BOTH) this.#oweShutdown(connection, SHUTDOWN_BOTH);
    if (connection.deadlineMs === Number.POSITIVE_INFINITY)
      this.#deadlines.set(connection, this.#nowMs + CLOSE_TIMEOUT_MS);
  }

  #fail(connection: Connection): void {
    this.#take(connection, 'fail');
    this.#toGuest.oweReset(connection.hostPort, connection.guestPort);
  }

  /** Makes a transition, and releases the connection if it was the last one. */
  #take(connection: Connection, event: ConnectionEvent): void {
    if (!connection.transition(event) || connection.state !== 'gone') return;
    this.#toHost.forget(connection);
    this.#toGuest.forget(connection);
    this.#table.delete(connection);
    this.#draining.delete(connection);
    this.#admission.forget(connection);
    this.#deadlines.delete(connection);
    this.#sharedWindowFree += connection.bufAlloc - WINDOW_BYTES_MIN;
    this.#dropSocket(connection);
  }

  #dropSocket(connection: Connection): void {
    this.#toHost.forget(connection);
    connection.held.consume(connection.held.length);
    connection.isHostDeaf = true;
    connection.socket?.close();
    connection.socket = undefined;
  }
}
