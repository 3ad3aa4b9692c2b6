import { describe, expect, it } from 'vitest';
import { Slots } from './slots.ts';

const never = new AbortController().signal;

function blocker() {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { work: () => promise, finish: resolve };
}

describe('Slots', () => {
  it('runs at most its size at a time, the others in order of arrival', async () => {
    const slots = new Slots(2);
    const blockers = [blocker(), blocker()];
    const order: string[] = [];
    const running = blockers.map((one) => slots.run(never, one.work));
    const later = ['a', 'b'].map((name) =>
      slots.run(never, async () => {
        order.push(name);
      }),
    );
    expect([slots.used, slots.waiting]).toEqual([2, 2]);
    expect(order).toEqual([]);
    for (const one of blockers) one.finish();
    await Promise.all([...running, ...later]);
    expect(order).toEqual(['a', 'b']);
    expect([slots.used, slots.waiting]).toEqual([0, 0]);
  });

  it('refuses when the queue is full', async () => {
    const slots = new Slots(1, 1);
    const first = blocker();
    const running = [slots.run(never, first.work), slots.run(never, async () => undefined)];
    await expect(slots.run(never, async () => undefined)).rejects.toMatchObject({ code: 'overloaded' });
    first.finish();
    await Promise.all(running);
  });

  it('cancels a waiting request at once, and gives its place to the next', async () => {
    const slots = new Slots(1);
    const first = blocker();
    const running = slots.run(never, first.work);
    const leaving = new AbortController();
    const left = slots.run(leaving.signal, async () => 'ran');
    const next = slots.run(never, async () => 'next');
    leaving.abort(new Error('client left'));
    await expect(left).rejects.toThrow('client left');
    expect(slots.waiting).toBe(1);
    first.finish();
    await running;
    expect(await next).toBe('next');
  });

  it('frees the slot when the work fails', async () => {
    const slots = new Slots(1);
    await expect(slots.run(never, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(slots.used).toBe(0);
  });

  it('does not start an aborted request', async () => {
    const slots = new Slots(1);
    await expect(slots.run(AbortSignal.abort(), async () => 1)).rejects.toThrow();
    expect(slots.used).toBe(0);
  });
});
