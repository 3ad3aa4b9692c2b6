import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Nft } from './nft.ts';

describe('Nft', () => {
  it('keeps no descriptor where its command can’t be started', async () => {
    const fds = (): number => readdirSync('/proc/self/fd').length;
    // Refused by `spawn` itself.
    const nft = new Nft({ command: ['nft\0'] });
    const attempt = () => nft.listCounters();
    await expect(attempt()).rejects.toMatchObject({ code: 'nft_failed' });
    const before = fds();
    for (let at = 0; at < 10; at += 1) {
      await expect(attempt()).rejects.toMatchObject({ code: 'nft_failed' });
    }
    expect(fds()).toBe(before);
  });
});
