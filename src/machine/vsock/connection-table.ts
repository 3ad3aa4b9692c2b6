import type { Connection } from './connection.ts';

/** The connections that the guest knows, by their two ports. */
export class ConnectionTable {
  readonly #byHostPort = new Map<number, Map<number, Connection>>();
  #last: Connection | undefined;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** Packets come in runs, so the last connection found is tried first. */
  find(hostPort: number, guestPort: number): Connection | undefined {
    const last = this.#last;
    if (last !== undefined && last.hostPort === hostPort && last.guestPort === guestPort) return last;
    const found = this.#byHostPort.get(hostPort)?.get(guestPort);
    if (found !== undefined) this.#last = found;
    return found;
  }

  usesHostPort(hostPort: number): boolean {
    return this.#byHostPort.has(hostPort);
  }

  /** The two ports must be free. */
  add(connection: Connection): void {
    let row = this.#byHostPort.get(connection.hostPort);
    if (row === undefined) {
      row = new Map();
      this.#byHostPort.set(connection.hostPort, row);
    }
    row.set(connection.guestPort, connection);
    this.#size += 1;
  }

  delete(connection: Connection): void {
    const row = this.#byHostPort.get(connection.hostPort);
    if (row?.get(connection.guestPort) !== connection) return;
    row.delete(connection.guestPort);
    if (row.size === 0) this.#byHostPort.delete(connection.hostPort);
    if (this.#last === connection) this.#last = undefined;
    this.#size -= 1;
  }

  /** A copy, so that the table may change meanwhile. */
  all(): Connection[] {
    return [...this.#byHostPort.values()].flatMap((row) => [...row.values()]);
  }
}
