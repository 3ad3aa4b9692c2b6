import { setImmediate } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { unlessCancelled } from './starting.ts';

describe('unlessCancelled', () => {
  it.each(['before', 'during'] as const)(
    'work that fails after a cancellation %s the call is no unhandled rejection',
    async (when) => {
      const unhandled: unknown[] = [];
      const note = (reason: unknown): void => void unhandled.push(reason);
      process.on('unhandledRejection', note);
      onTestFinished(() => void process.off('unhandledRejection', note));

      const aborter = new AbortController();
      if (when === 'before') aborter.abort();
      const work = Promise.withResolvers<void>();
      const waiting = unlessCancelled(work.promise, aborter.signal);
      aborter.abort();
      await expect(waiting).rejects.toMatchObject({ code: 'vm_cancelled' });

      work.reject(new Error('the VMM was killed'));
      await setImmediate();
      expect(unhandled).toEqual([]);
    },
  );

  it('settles as the work does', async () => {
    const { signal } = new AbortController();
    expect(await unlessCancelled(Promise.resolve(7), signal)).toBe(7);
    const failed = Promise.reject(new Error('broken'));
    await expect(unlessCancelled(failed, signal)).rejects.toThrow('broken');
  });
});
