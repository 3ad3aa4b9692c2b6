import { describe, expect, it } from 'vitest';
import { pssMib } from '../../probes/host-memory.ts';
import { busyShare } from '../calm.ts';

const SMAPS = `\
7f0000000000-7f0010000000 rw-s 00000000 00:01 12                 /memfd:guest-ram (deleted)
Rss:              200000 kB
Pss:              100000 kB
Pss_Dirty:        100000 kB
7f0020000000-7f0020100000 r-xp 00000000 fe:00 99                 /usr/bin/qemu-system-x86_64
Rss:                3072 kB
Pss:                2048 kB
7f0030000000-7f0030100000 rw-p 00000000 00:00 0 
Pss:                1024 kB
`;

describe('process memory', () => {
  it('pssMib: adds up the proportional set size of the wanted mappings, in MiB', () => {
    expect(pssMib(SMAPS, ({ path }) => !path.startsWith('/memfd:guest-ram'))).toBe(3);
    expect(pssMib(SMAPS, ({ kib }) => kib !== 1024)).toBeCloseTo(100_000 / 1024);
    expect(pssMib(SMAPS, () => true)).toBeCloseTo(3 + 100_000 / 1024);
    expect(pssMib('', () => true)).toBe(0);
  });
});

describe('busy share', () => {
  it('is the share of non-idle time of all processors between two readings', () => {
    const before = { idleMs: 1000, allMs: 2000 };
    expect(busyShare(before, { idleMs: 1180, allMs: 2200 })).toBeCloseTo(0.1);
    expect(busyShare(before, { idleMs: 1000, allMs: 2200 })).toBe(1);
    expect(busyShare(before, before)).toBe(0);
  });
});
