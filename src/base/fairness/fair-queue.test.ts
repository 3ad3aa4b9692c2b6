import { expect, it } from 'vitest';
import { FairQueue } from './fair-queue.ts';

/** A job queue with a limited number of running jobs per owner. */
class Slots<Job> {
  readonly queue = new FairQueue<{ readonly owner: string; readonly job: Job }>();
  readonly #running: string[] = [];
  readonly #ownMax: number;

  constructor(ownMax: number) {
    this.#ownMax = ownMax;
  }

  push(owner: string, job: Job): void {
    this.queue.add(owner, { owner, job });
  }

  next() {
    const taken = this.queue.take((owner) => this.#running.filter((each) => each === owner).length < this.#ownMax);
    if (taken !== undefined) this.#running.push(taken.owner);
    return taken;
  }

  done(owner: string): void {
    this.#running.splice(this.#running.indexOf(owner), 1);
  }
}

it('FairQueue: a polite owner’s job comes right after the one that a flood has started', () => {
  const slots = new Slots<string>(2);
  for (let i = 0; i < 100; i += 1) slots.push('hostile', `h${i}`);
  expect(slots.next()?.job).toBe('h0');
  slots.push('polite', 'p0');
  slots.push('polite', 'p1');
  expect([slots.next(), slots.next(), slots.next()].map((each) => each?.job)).toEqual(['h1', 'p0', 'p1']);
});

it('FairQueue: an owner uses at most its slots, in order, and each end frees one', () => {
  const slots = new Slots<number>(1);
  slots.push('a', 1);
  slots.push('a', 2);
  expect(slots.next()).toEqual({ owner: 'a', job: 1 });
  expect(slots.next()).toBeUndefined();
  slots.push('b', 3);
  expect(slots.next()).toEqual({ owner: 'b', job: 3 });
  slots.done('a');
  expect(slots.next()).toEqual({ owner: 'a', job: 2 });
  expect(slots.queue.size).toBe(0);
});

it('FairQueue: a removed job never runs', () => {
  const queue = new FairQueue<number>();
  queue.add('a', 1);
  expect([queue.delete('a', 2), queue.delete('b', 1), queue.delete('a', 1)]).toEqual([false, false, true]);
  expect(queue.take()).toBeUndefined();
  expect(queue.delete('a', 1)).toBe(false);
});
