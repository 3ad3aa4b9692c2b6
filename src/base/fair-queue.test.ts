import { expect, it } from 'vitest';
import { FairQueue } from './fair-queue.ts';

it('FairQueue: the job of a polite owner comes right after the one that a flood has begun', () => {
  const queue = new FairQueue<string>(2);
  for (let i = 0; i < 100; i += 1) queue.push('hostile', `h${i}`);
  expect(queue.next()?.job).toBe('h0');
  queue.push('polite', 'p0');
  queue.push('polite', 'p1');
  expect([queue.next(), queue.next(), queue.next()].map((each) => each?.job)).toEqual([
    'h1',
    'p0',
    'p1',
  ]);
});

it('FairQueue: an owner has no more than its running slots, in order, and each end frees one', () => {
  const queue = new FairQueue<number>(1);
  queue.push('a', 1);
  queue.push('a', 2);
  expect(queue.next()).toEqual({ owner: 'a', job: 1 });
  expect(queue.next()).toBeUndefined();
  queue.push('b', 3);
  expect(queue.next()).toEqual({ owner: 'b', job: 3 });
  queue.done('a');
  expect(queue.next()).toEqual({ owner: 'a', job: 2 });
  expect(queue.size).toBe(0);
});

it('FairQueue: a removed job never runs', () => {
  const queue = new FairQueue<number>(1);
  queue.push('a', 1);
  expect([queue.remove('a', 2), queue.remove('b', 1), queue.remove('a', 1)]).toEqual([
    false,
    false,
    true,
  ]);
  expect(queue.next()).toBeUndefined();
  expect(queue.remove('a', 1)).toBe(false);
});
