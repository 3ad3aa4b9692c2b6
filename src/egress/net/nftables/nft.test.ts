import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { Nft } from './nft.ts';

describe('Nft', () => {
  it('leaks no descriptor if its command can’t be started', async () => {
    const fds = (): number => readdirSync('/proc/self/fd').length;
    // `spawn` itself refuses this one.
    const nft = new Nft({ command: ['nft\0'] });
    const attempt = () => nft.listCounters();
    await expect(attempt()).rejects.toMatchObject({ code: 'nft_failed' });
    const before = fds();
    for (let at = 0; at < 10; at += 1) {
      await expect(attempt()).rejects.toMatchObject({ code: 'nft_failed' });
    }
    expect(fds()).toBe(before);
  });

  const NOT_THERE = ['nft-that-is-not-there'];
  const change = [{ flush: { ruleset: null } }];
  const answer = (errors: string) => async () => ({ ok: errors === '', output: '', errors });

  it('uses the library, and starts a process only without one', async () => {
    const nft = new Nft({ command: NOT_THERE, library: answer('') });
    await nft.apply(change);
    const without = new Nft({ command: NOT_THERE, library: async () => undefined });
    await expect(without.apply(change)).rejects.toMatchObject({ code: 'nft_missing' });
  });

  it('reports what the library refuses, and why', async () => {
    const refused = new Nft({ library: answer('Error: Could not process rule: File exists') });
    await expect(refused.apply(change)).rejects.toMatchObject({
      code: 'nft_refused',
      cause: { message: expect.stringContaining('File exists') },
    });
    const weak = new Nft({ library: answer('Error: Operation not permitted') });
    await expect(weak.apply(change)).rejects.toMatchObject({ code: 'nft_not_permitted' });
  });

  it('stops waiting for a library that does not end', async () => {
    const clock = new FakeClock();
    const slow = new Nft({ library: () => new Promise(() => undefined), runMsMax: 50, clock });
    const attempt = expect(slow.apply(change)).rejects.toMatchObject({ code: 'nft_failed' });
    clock.advance(50);
    await attempt;
  });
});
