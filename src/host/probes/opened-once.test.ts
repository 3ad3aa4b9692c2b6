import { describe, expect, it, vi } from 'vitest';
import { OpenedOnce } from './opened-once.ts';

const made = () => ({ [Symbol.dispose]: vi.fn() });

function of(open: (() => Promise<ReturnType<typeof made>>) | null) {
  const [opened, failed] = [vi.fn(), vi.fn()];
  return { once: new OpenedOnce({ open, opened, failed }), opened, failed };
}

describe('OpenedOnce', () => {
  it('start: two calls open one value, which is disposed of once', async () => {
    const value = made();
    const open = vi.fn(async () => value);
    const { once, opened } = of(open);
    expect(once.value).toBeUndefined();
    await Promise.all([once.start(), once.start()]);
    expect(open).toHaveBeenCalledTimes(1);
    expect(opened).toHaveBeenCalledExactlyOnceWith(value);
    expect(once.value).toBe(value);
    once[Symbol.dispose]();
    once[Symbol.dispose]();
    expect(value[Symbol.dispose]).toHaveBeenCalledTimes(1);
    expect(once.value).toBeUndefined();
  });

  it('stop: a value that arrives later is disposed of, and `opened` is not called', async () => {
    const value = made();
    const coming = Promise.withResolvers<typeof value>();
    const { once, opened } = of(() => coming.promise);
    const started = once.start();
    once.stop();
    coming.resolve(value);
    await started;
    await once.settled();
    expect(value[Symbol.dispose]).toHaveBeenCalledTimes(1);
    expect(opened).not.toHaveBeenCalled();
    expect(once.value).toBeUndefined();
  });

  it('start: a failure goes to `failed`, never rejects, and leaves no value', async () => {
    const { once, failed } = of(() => Promise.reject(new Error('no such probe')));
    await once.start();
    expect(failed).toHaveBeenCalledExactlyOnceWith(new Error('no such probe'));
    expect(once.value).toBeUndefined();
  });

  it('start: without `open` there is no value', async () => {
    const { once, opened, failed } = of(null);
    await once.start();
    expect([opened.mock.calls, failed.mock.calls, once.value]).toEqual([[], [], undefined]);
  });
});
