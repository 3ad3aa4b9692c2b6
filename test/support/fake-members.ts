/** Members of a pool and their making, controlled by a test. */
import type { PoolMember } from '../../src/sandbox/start/warm-pool.ts';

export class FakeMember implements PoolMember {
  readonly id: string;
  readonly ended: Promise<void>;
  readonly #end: () => void;
  alive = true;
  discards = 0;
  /** Checks that have no answer yet. */
  asked: PromiseWithResolvers<void>[] = [];
  /** False: `discard` hangs until `release`. */
  discardsAtOnce = true;
  readonly #released = Promise.withResolvers<void>();

  constructor(id: string) {
    this.id = id;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#end = resolve;
  }

  isAlive(): boolean {
    return this.alive;
  }

  check(): Promise<void> {
    const answer = Promise.withResolvers<void>();
    this.asked.push(answer);
    return answer.promise;
  }

  async discard(): Promise<void> {
    this.discards++;
    this.end();
    if (!this.discardsAtOnce) await this.#released.promise;
  }

  release(): void {
    this.#released.resolve();
  }

  /** Ends the member; with `quietly` no listener is called. */
  end(how: 'quietly' | 'noticed' = 'noticed'): void {
    this.alive = false;
    if (how === 'noticed') this.#end();
  }
}

interface Make {
  readonly signal: AbortSignal;
  readonly done: PromiseWithResolvers<FakeMember>;
}

/** The `make` of a pool; each call waits until the test ends it. */
export class FakeMaker {
  /** Makes without an outcome yet, oldest first, including cancelled ones. */
  readonly pending: Make[] = [];
  readonly members: FakeMember[] = [];
  calls = 0;

  readonly make = (signal: AbortSignal): Promise<FakeMember> => {
    this.calls++;
    const done = Promise.withResolvers<FakeMember>();
    this.pending.push({ signal, done });
    return done.promise;
  };

  /** @param index in `pending` */
  succeed(index = 0): FakeMember {
    const member = new FakeMember(`m${this.members.length}`);
    this.members.push(member);
    this.#take(index).done.resolve(member);
    return member;
  }

  fail(index = 0): void {
    this.#take(index).done.reject(new Error('no memory'));
  }

  #take(index: number): Make {
    const [make] = this.pending.splice(index, 1);
    if (make === undefined) throw new Error('nothing is being made');
    return make;
  }
}

/** Lets everything happen that needs no time. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
