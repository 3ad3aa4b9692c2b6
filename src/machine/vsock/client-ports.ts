/** Our ports for host clients, apart from the ports that guests dial. */
import type { ConnectionTable } from './connection-table.ts';

const PORT_FIRST = 2 ** 30;
const PORT_COUNT = 2 ** 30;

export class ClientPorts {
  #last: number;

  constructor(seed: number) {
    this.#last = PORT_FIRST - 1 + (seed % PORT_COUNT);
  }

  /** A port that no connection uses. */
  next(table: Pick<ConnectionTable, 'usesHostPort'>): number {
    do {
      const next = this.#last + 1 - PORT_FIRST;
      this.#last = PORT_FIRST + (next % PORT_COUNT);
    } while (table.usesHostPort(this.#last));
    return this.#last;
  }
}
