/**
 * One direction of all connections of a channel: copies bytes between sockets as far as the direction's tokens and each
 * receiver allow. Bytes that may not pass yet stay in their sender's socket, so that the sender waits.
 */
import type { Clock } from '../../../../base/clock.ts';
import type { BucketLimit } from '../../../../base/token-bucket.ts';
import { MIB } from '../../../../base/units.ts';
import { BROKEN, PIECE_BYTES_MAX, type RelaySocket, WOULD_BLOCK } from './relay-socket.ts';
import { TokenLine } from './token-line.ts';

/** Cost of reading a socket, charged to the turn even if there are fewer bytes. */
const LOOK_COST_BYTES = 4 * 1024;
/** Limit for the last bytes of a channel that is closed; a few full sockets. */
const LAST_BYTES_MAX = 8 * MIB;

interface Way {
  readonly from: RelaySocket;
  readonly to: RelaySocket;
  /** Called once: the sender has ended, or the receiver takes nothing more. */
  readonly over: () => void;
  isOver: boolean;
  /** The receiver's buffer is full. */
  isFull: boolean;
}

export class RelayFlow {
  readonly #line: TokenLine<Way>;
  readonly #ways = new Set<Way>();
  #bytes = 0;

  constructor(clock: Clock, limit: BucketLimit | undefined, wake: () => void) {
    this.#line = new TokenLine(clock, limit, (way) => this.#move(way), wake);
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

  /** Copies until `from` ends, then ends `to`. The caller makes `from` report bytes that have already arrived. */
  join(from: RelaySocket, to: RelaySocket, over: () => void): void {
    const way: Way = { from, to, over, isOver: false, isFull: false };
    const add = (): void => {
      if (!way.isOver && !way.isFull) this.#line.add(way);
    };
    from.onInput = add;
    to.onRoom = () => {
      way.isFull = false;
      add();
    };
    this.#ways.add(way);
    from.onClose.push(() => {
      this.#ways.delete(way);
      this.#line.forget(way);
    });
  }

  /** Moves up to `bytes`, and up to one more piece. @returns whether more could be moved now */
  turn(bytes: number): boolean {
    return this.#line.serve(bytes, LOOK_COST_BYTES);
  }

  /** Moves the bytes that arrived last, as far as limits allow. */
  finish(): void {
    for (const way of this.#ways) if (!way.isOver) this.#line.add(way);
    this.#line.serve(LAST_BYTES_MAX, LOOK_COST_BYTES);
  }

  close(): void {
    this.#line.close();
  }

  #move(way: Way): number {
    const { from, to } = way;
    const there = from.peek(PIECE_BYTES_MAX);
    if (there === WOULD_BLOCK) return 0;
    if (there === 0 || there === BROKEN) {
      to.endWrite();
      return this.#end(way);
    }
    const sent = to.send(there);
    // A sender whose receiver has gone gets an error, too.
    if (sent === BROKEN) {
      from.endRead();
      return this.#end(way);
    }
    way.isFull = sent < there;
    if (sent === WOULD_BLOCK) return 0;
    if (!from.take(sent)) {
      to.endWrite();
      return this.#end(way);
    }
    this.#bytes += sent;
    // With less, `from` reports later bytes; after a partial send, `to` reports room.
    if (sent === PIECE_BYTES_MAX || (sent === there && from.isEnding)) this.#line.add(way);
    return sent;
  }

  #end(way: Way): number {
    way.isOver = true;
    way.over();
    return 0;
  }
}
