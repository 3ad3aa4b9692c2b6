import { describe, expect, it } from 'vitest';
import { together } from './together.ts';

const never = new AbortController().signal;

describe('together', () => {
  it('returns the results in order', async () => {
    expect(await together(never, [async () => 1, async () => 'two'])).toEqual([1, 'two']);
  });

  it('throws the first error after the rest was aborted and has ended', async () => {
    const ended: string[] = [];
    const slow = (signal: AbortSignal): Promise<never> =>
      new Promise((_, reject) => {
        signal.addEventListener('abort', () => {
          setImmediate(() => {
            ended.push('slow');
            reject(new Error('aborted'));
          });
        });
      });
    const broken = (): Promise<never> => Promise.reject(new Error('broke'));
    await expect(together(never, [slow, broken])).rejects.toThrow('broke');
    expect(ended).toEqual(['slow']);
  });

  it('forwards an abort of the caller', async () => {
    const caller = new AbortController();
    const waiting = together(caller.signal, [
      (signal) =>
        new Promise<never>((_, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason));
        }),
    ]);
    caller.abort(new Error('canceled'));
    await expect(waiting).rejects.toThrow('canceled');
  });
});
