/** The connections that must get on within a time limit. */
import type { Connection } from './connection.ts';

export class Deadlines {
  readonly #timed = new Set<Connection>();
  #nextMs = Number.POSITIVE_INFINITY;

  /** No deadline is earlier; Infinity: there is none. */
  get nextMs(): number {
    return this.#nextMs;
  }

  /** @param deadlineMs Infinity: no time limit */
  set(connection: Connection, deadlineMs: number): void {
    connection.deadlineMs = deadlineMs;
    if (deadlineMs === Number.POSITIVE_INFINITY) this.#timed.delete(connection);
    else this.#timed.add(connection);
    this.#nextMs = Math.min(this.#nextMs, deadlineMs);
  }

  delete(connection: Connection): void {
    this.#timed.delete(connection);
  }

  /** @param fail called for each connection whose time is over; deletes it */
  expire(nowMs: number, fail: (connection: Connection) => void): void {
    if (nowMs < this.#nextMs) return;
    this.#nextMs = Number.POSITIVE_INFINITY;
    for (const connection of this.#timed) {
      if (connection.deadlineMs > nowMs) this.#nextMs = Math.min(this.#nextMs, connection.deadlineMs);
      else fail(connection);
    }
  }
}
