import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Rounds } from './rounds.ts';

/** A model with the queue of node-llama-cpp: the next batch contains everything queued when the last one is done. */
class Batches {
  readonly sizes: number[] = [];
  readonly #queued: (() => void)[] = [];
  #isBusy = false;

  compute(): Promise<void> {
    setImmediate(() => void this.#work());
    return new Promise((resolve) => {
      this.#queued.push(resolve);
    });
  }

  async #work(): Promise<void> {
    if (this.#isBusy) return;
    this.#isBusy = true;
    while (this.#queued.length > 0) {
      const batch = this.#queued.splice(0);
      this.sizes.push(batch.length);
      await turn();
      for (const done of batch) done();
    }
    this.#isBusy = false;
  }

  async *generate(tokens: number): AsyncGenerator<number, void> {
    for (let at = 0; at < tokens; at++) {
      await this.compute();
      yield at;
    }
  }
}

async function read(items: AsyncIterable<number>): Promise<number[]> {
  const read: number[] = [];
  for await (const item of items) read.push(item);
  return read;
}

describe('Rounds', () => {
  /** The second generation begins when the first one has two tokens, and its own first token is being computed. */
  async function twoGenerations(
    wrap: (items: AsyncGenerator<number, void>) => AsyncGenerator<number, void>,
  ): Promise<number[]> {
    const model = new Batches();
    const first = wrap(model.generate(6));
    const begin = [(await first.next()).value, (await first.next()).value];
    const rest = read(first);
    await turn();
    expect(await read(wrap(model.generate(3)))).toEqual([0, 1, 2]);
    expect([...begin, ...(await rest)]).toEqual([0, 1, 2, 3, 4, 5]);
    return model.sizes;
  }

  it('generations that begin at different times share batches', async () => {
    const rounds = new Rounds();
    const sizes = await twoGenerations((items) => rounds.each(items));
    expect(sizes.filter((size) => size === 2)).toHaveLength(3);
  });

  it('without rounds, the same generations alternate', async () => {
    expect(await twoGenerations((items) => items)).not.toContain(2);
  });

  it('a lone generation is not delayed by one whose consumer is slow', async () => {
    const rounds = new Rounds();
    const model = new Batches();
    const slow = rounds.each(model.generate(2));
    expect((await slow.next()).value).toBe(0);
    // Its consumer does not ask for more.
    expect(await read(rounds.each(model.generate(3)))).toEqual([0, 1, 2]);
    expect(await read(slow)).toEqual([1]);
  });

  it('a step that fails reports its error and does not stop the others', async () => {
    const rounds = new Rounds();
    const model = new Batches();
    const failed = rounds.step(async () => {
      await model.compute();
      throw new Error('no memory');
    });
    const others = read(rounds.each(model.generate(3)));
    await expect(failed).rejects.toThrow('no memory');
    expect(await others).toEqual([0, 1, 2]);
  });

  it('a consumer that leaves ends its generation', async () => {
    const rounds = new Rounds();
    let isEnded = false;
    async function* endless(): AsyncGenerator<number, void> {
      try {
        for (;;) yield 1;
      } finally {
        isEnded = true;
      }
    }
    for await (const item of rounds.each(endless())) if (item === 1) break;
    expect(isEnded).toBe(true);
    expect(await rounds.step(async () => 'next')).toBe('next');
  });
});
