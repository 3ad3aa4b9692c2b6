/**
 * One direction of all connections of a channel: copies bytes between sockets as far as the direction's tokens and each
 * receiver's buffer allow. Bytes that may not pass yet are not read, so that their sender waits.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../../../base/clock.ts';
import type { BucketLimit } from '../../../base/token-bucket.ts';
import { TokenLine } from './token-line.ts';

/** Bytes that one turn may move if there is a limit. */
export const TURN_BYTES_MAX = 64 * 1024;

interface Way {
  readonly from: Socket;
  readonly to: Socket;
}

export class RelayFlow {
  readonly #line: TokenLine<Way>;
  #bytes = 0;

  constructor(clock: Clock, limit: BucketLimit | undefined) {
    this.#line = new TokenLine(clock, limit, (way) => this.#move(way));
  }

  get bytes(): number {
    return this.#bytes;
  }

  get throttledMs(): number {
    return this.#line.throttledMs();
  }

  setLimit(limit: BucketLimit | undefined): void {
    this.#line.setLimit(limit);
  }

  /** Copies until `from` ends, then ends `to`. The sockets' owner handles errors. */
  join(from: Socket, to: Socket): void {
    const way = { from, to };
    from.on('readable', () => this.#line.add(way));
    to.on('drain', () => this.#line.add(way));
    from.once('end', () => to.end());
    for (const socket of [from, to]) socket.once('close', () => this.#line.forget(way));
    this.#line.add(way);
  }

  close(): void {
    this.#line.close();
  }

  #move(way: Way): number {
    const { from, to } = way;
    if (from.destroyed || to.destroyed || to.writableNeedDrain) return 0;
    // An empty read requests more: `readable` or `end` follows.
    const count = Math.min(from.readableLength, this.#line.isLimited ? TURN_BYTES_MAX : Infinity);
    const bytes = (count === 0 ? from.read() : from.read(count)) as Buffer | null;
    if (bytes === null) return 0;
    this.#bytes += bytes.length;
    if (to.write(bytes)) this.#line.add(way);
    return bytes.length;
  }
}
