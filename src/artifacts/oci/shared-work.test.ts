import { describe, expect, it } from 'vitest';
import { SharedWork } from './shared-work.ts';

const untilAborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

describe('SharedWork', () => {
  it('run: does equal work once, and again after its end', async () => {
    const shared = new SharedWork<number>();
    let count = 0;
    const gate = Promise.withResolvers<void>();
    const work = async (): Promise<number> => {
      count += 1;
      await gate.promise;
      return count;
    };
    const { signal } = new AbortController();
    const both = [shared.run('a', signal, work), shared.run('a', signal, work)];
    gate.resolve();
    expect(await Promise.all(both)).toEqual([1, 1]);
    expect(await shared.run('a', signal, work)).toBe(2);
  });

  it('run: a caller that cancels leaves the work to the others; the last one cancels it', async () => {
    const shared = new SharedWork<number>();
    const [first, second] = [new AbortController(), new AbortController()];
    let own: AbortSignal | undefined;
    const work = (signal: AbortSignal): Promise<number> => {
      own = signal;
      return untilAborted(signal);
    };
    const one = shared.run('a', first.signal, work);
    const two = shared.run('a', second.signal, work);
    first.abort(new Error('first'));
    await expect(one).rejects.toThrow('first');
    expect(own?.aborted).toBe(false);
    second.abort(new Error('second'));
    await expect(two).rejects.toThrow('second');
    expect(own?.aborted).toBe(true);
  });
});
