/**
 * Guest → host: payload on its way from TX buffers to host sockets.
 *
 * Consecutive packets of one connection are gathered and written by one call, straight from guest memory. Bytes that a
 * socket does not take, or that the byte bucket does not let pass, are held (copied) within the connection's window;
 * `fwd_cnt` does not move for them, so the guest's credit runs out and it waits. That is the back-pressure, and it
 * affects only that connection: the TX ring is always emptied, because control packets and other connections' data are
 * in the same ring.
 */
import type { TokenBucket } from '../../base/token-bucket.ts';
import type { Connection } from './connection.ts';
import { WRITE_BROKEN } from './host-socket.ts';
import { GRANT_BYTES_MAX, TURN_BYTES_MAX } from './limits.ts';
import { HEADER_BYTES } from './packet.ts';
import type { Chain } from './ring-memory.ts';
import { Segments } from './segments.ts';

interface ToHostEvents {
  /** The host took bytes, and the guest should learn the new credit. */
  creditDue(connection: Connection): void;
  /** No byte of a connection is held any more. */
  drained(connection: Connection): void;
  /** The host takes no more bytes of this connection. */
  hostDeaf(connection: Connection): void;
}

export class ToHost {
  readonly #bucket: TokenBucket;
  readonly #events: ToHostEvents;
  readonly #segments = new Segments();
  /** The connection of the bytes in `#segments`. */
  #gathering: Connection | undefined;
  /** Connections with held bytes whose socket may have room, in order of their turns. */
  readonly #pending = new Set<Connection>();
  #bytes = 0;

  constructor(bucket: TokenBucket, events: ToHostEvents) {
    this.#bucket = bucket;
    this.#events = events;
  }

  /** Bytes that host sockets took since the start. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Bytes wait for tokens. */
  get isWaiting(): boolean {
    return this.#pending.size > 0;
  }

  /** Bytes of a connection that are gathered and not yet written or held. */
  gathered(connection: Connection): number {
    return this.#gathering === connection ? this.#segments.bytes : 0;
  }

  /** Takes the payload of a packet, which stays in guest memory until `flush`. */
  deliver(connection: Connection, chain: Chain, length: number, nowMs: number): void {
    if (connection.isHostDeaf) {
      this.#forwarded(connection, length);
      return;
    }
    const limit = this.#bucket.isLimited ? GRANT_BYTES_MAX : TURN_BYTES_MAX;
    const isFull =
      this.#segments.free < chain.count || (this.#segments.bytes > 0 && this.#segments.bytes + length > limit);
    if (this.#gathering !== connection || isFull) this.flush(nowMs);
    this.#gathering = connection;
    this.#segments.pushChain(chain, HEADER_BYTES, length);
  }

  /** Writes or holds the gathered bytes; afterwards no buffer of the guest is referenced. */
  flush(nowMs: number): void {
    const connection = this.#gathering;
    if (connection === undefined) return;
    this.#gathering = undefined;
    const segments = this.#segments;
    const mayWrite = connection.held.length === 0 && this.#bucket.tryOpen(nowMs);
    const written = mayWrite ? (connection.socket?.write(segments) ?? WRITE_BROKEN) : 0;
    if (written === WRITE_BROKEN) {
      this.#deafen(connection, segments.bytes);
    } else {
      if (written > 0) this.#passed(connection, written);
      if (written < segments.bytes) {
        segments.forEachFrom(written, (bytes) => connection.held.push(bytes));
        if (mayWrite) this.#block(connection);
        else if (!connection.isBlocked) this.#pending.add(connection);
      }
    }
    segments.clear();
  }

  /** The socket of a connection has room again. */
  hostHasRoom(connection: Connection): void {
    if (!connection.isBlocked) return;
    connection.isBlocked = false;
    connection.socket?.watchRoom(false);
    if (connection.held.length > 0) this.#pending.add(connection);
  }

  /** Writes held bytes, connection by connection in turns, as far as sockets and tokens allow. */
  writeHeld(nowMs: number): void {
    for (const connection of this.#pending) {
      if (!this.#bucket.tryOpen(nowMs)) return;
      this.#pending.delete(connection);
      const bytes = connection.held.head();
      const turn = bytes.subarray(0, this.#bucket.isLimited ? GRANT_BYTES_MAX : TURN_BYTES_MAX);
      const written = connection.socket?.writeHeld(turn) ?? WRITE_BROKEN;
      if (written === WRITE_BROKEN) {
        this.#deafen(connection, 0);
        continue;
      }
      connection.held.consume(written);
      if (written > 0) this.#passed(connection, written);
      if (connection.held.length === 0) this.#events.drained(connection);
      else if (written < turn.length) this.#block(connection);
      // Moved to the end: this loop comes back to it.
      else this.#pending.add(connection);
    }
  }

  forget(connection: Connection): void {
    this.#pending.delete(connection);
    if (this.#gathering !== connection) return;
    this.#gathering = undefined;
    this.#segments.clear();
  }

  #passed(connection: Connection, bytes: number): void {
    this.#bytes += bytes;
    this.#bucket.spend(bytes);
    this.#forwarded(connection, bytes);
  }

  #forwarded(connection: Connection, bytes: number): void {
    if (connection.noteForwarded(bytes)) this.#events.creditDue(connection);
  }

  #block(connection: Connection): void {
    connection.isBlocked = true;
    connection.socket?.watchRoom(true);
  }

  /** Bytes for a host that is gone count as forwarded, so that the guest does not hang. */
  #deafen(connection: Connection, gathered: number): void {
    const dropped = gathered + connection.held.length;
    connection.held.consume(connection.held.length);
    connection.isHostDeaf = true;
    this.#forwarded(connection, dropped);
    this.#events.hostDeaf(connection);
  }
}
