/**
 * New connections wait here until they may exist: for a token of the connection bucket, and guests' also for room in
 * the backlog of the host program that they dial. They are delayed, never refused because of their rate.
 */
import type { TokenBucket } from '../../base/token-bucket.ts';
import type { Connection } from './connection.ts';
import type { ConnectResult, HostSocket } from './host-socket.ts';
import { BACKLOG_RETRY_MS, BACKLOG_TIMEOUT_MS } from './limits.ts';

interface AdmissionEvents {
  /** The guest may now be asked for a host client's connection. */
  clientAdmitted(connection: Connection): void;
  /** A guest's connection has its host socket. */
  guestAdmitted(connection: Connection, socket: HostSocket<Connection>): void;
  /** No listener at the port, or the listener stayed busy. */
  refused(connection: Connection): void;
}

export class Admission {
  readonly #bucket: TokenBucket;
  readonly #connect: (hostPort: number) => ConnectResult<Connection>;
  readonly #events: AdmissionEvents;
  /** Oldest first. */
  readonly #waiting = new Set<Connection>();

  constructor(bucket: TokenBucket, connect: (hostPort: number) => ConnectResult<Connection>, events: AdmissionEvents) {
    this.#bucket = bucket;
    this.#connect = connect;
    this.#events = events;
  }

  /** Decides at once if it can. */
  add(connection: Connection, nowMs: number): void {
    this.#waiting.add(connection);
    this.admit(nowMs);
  }

  forget(connection: Connection): void {
    this.#waiting.delete(connection);
  }

  /** Admits in order; a port whose listener is busy does not stop the others. */
  admit(nowMs: number): void {
    if (this.#waiting.size === 0) return;
    const busyPorts = new Set<number>();
    for (const connection of this.#waiting) {
      if (!this.#bucket.tryOpen(nowMs)) return;
      if (connection.fromHost) {
        this.#pass(connection);
        this.#events.clientAdmitted(connection);
        continue;
      }
      if (busyPorts.has(connection.hostPort)) continue;
      const socket = this.#connect(connection.hostPort);
      if (socket === 'busy') {
        busyPorts.add(connection.hostPort);
        if (connection.deadlineMs === Number.POSITIVE_INFINITY) connection.deadlineMs = nowMs + BACKLOG_TIMEOUT_MS;
        if (nowMs < connection.deadlineMs) continue;
      }
      this.#pass(connection);
      if (socket === 'busy' || socket === 'refused') this.#events.refused(connection);
      else this.#events.guestAdmitted(connection, socket);
    }
  }

  /** Milliseconds until `admit` may do more; Infinity if nothing waits. */
  nextTimeoutMs(nowMs: number): number {
    if (this.#waiting.size === 0) return Number.POSITIVE_INFINITY;
    return Math.max(this.#bucket.waitMs(nowMs), BACKLOG_RETRY_MS);
  }

  #pass(connection: Connection): void {
    this.#waiting.delete(connection);
    this.#bucket.spend(1);
    connection.deadlineMs = Number.POSITIVE_INFINITY;
  }
}
