import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { offerToOomKiller, vmmScore } from './oom-score.ts';

const scoreOf = (pid: number | string): number => Number(readFileSync(`/proc/${pid}/oom_score_adj`, 'latin1'));

describe('offerToOomKiller', () => {
  it('a VMM gets a higher score than its daemon, whose score stays', async () => {
    const vmm = spawn('sleep', ['60']);
    const ended = once(vmm, 'exit');
    try {
      await once(vmm, 'spawn');
      const own = scoreOf('self');
      const pid = vmm.pid ?? 0;
      offerToOomKiller(pid);
      expect(scoreOf(pid)).toBe(vmmScore(own));
      expect(scoreOf('self')).toBe(own);
    } finally {
      vmm.kill('SIGKILL');
      await ended;
    }
    offerToOomKiller(2 ** 22 + 1);
  });

  it.each([
    [0, 500],
    [300, 800],
    [900, 1000],
    [-500, 500],
    [-1000, 500],
  ])('a daemon with score %d has VMMs with %d', (own, vmm) => expect(vmmScore(own)).toBe(vmm));
});
