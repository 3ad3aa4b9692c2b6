import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../base/units.ts';
import { anonymousBytes, mappedMemory, memoryBesideRam } from './host-memory.ts';

const SMAPS = `\
7f0000000000-7f0010000000 rw-s 00000000 00:01 12                 /memfd:guest-ram (deleted)
Rss:              200000 kB
Pss:              100000 kB
Pss_Dirty:        100000 kB
Private_Clean:         0 kB
Private_Dirty:     50000 kB
7f0020000000-7f0020100000 r-xp 00000000 fe:00 99                 /usr/bin/qemu-system-x86_64
Rss:                3072 kB
Pss:                2048 kB
Private_Clean:       512 kB
Private_Dirty:         0 kB
7f0030000000-7f0030100000 rw-p 00000000 00:00 0 
Pss:                1024 kB
Private_Clean:         0 kB
Private_Dirty:      1024 kB
Anonymous:           768 kB
`;

describe('availableMib', () => {
  it('without free file descriptors: the last known value', () => {
    const module = JSON.stringify(new URL('host-memory.ts', import.meta.url).href);
    const script = `const { openSync } = await import('node:fs');
      const { availableMib } = await import(${module});
      const before = availableMib();
      try { for (;;) openSync('/dev/null'); } catch (error) { if (error.code !== 'EMFILE') throw error; }
      process.exitCode = availableMib() > 0 && before > 0 ? 7 : 8;`;
    const node = [process.execPath, '--input-type=module', '-e', script];
    const { status, stderr } = spawnSync('sh', ['-c', 'ulimit -n 64; exec "$@"', 'sh', ...node]);
    expect([status, `${stderr}`]).toEqual([7, '']);
  });
});

describe('anonymousBytes', () => {
  it('counts only private memory, and is null after the process ended', () => {
    const before = anonymousBytes(process.pid) ?? 0;
    const bytes = Buffer.alloc(64 * MIB, 1);
    const after = anonymousBytes(process.pid) ?? 0;
    expect((after - before) / bytes.length).toBeGreaterThan(0.5);
    expect(after).toBeLessThan(process.memoryUsage.rss());
    expect(anonymousBytes(2 ** 22 + 1)).toBeNull();
  });
});

describe('mappedMemory', () => {
  it('sums shares and private pages of the selected mappings', () => {
    expect(mappedMemory(SMAPS, ({ path }) => !path.startsWith('/memfd:guest-ram'))).toEqual({
      proportionalMib: 3,
      privateMib: 1.5,
      anonymousMib: 0.75,
    });
    const programs = mappedMemory(SMAPS, ({ isCode }) => isCode);
    expect(programs).toEqual({ proportionalMib: 2, privateMib: 0.5, anonymousMib: 0 });
    const others = mappedMemory(SMAPS, ({ kib }) => kib !== 1024);
    expect(others.proportionalMib).toBeCloseTo(100_000 / 1024);
    expect(mappedMemory('', () => true)).toEqual({ proportionalMib: 0, privateMib: 0, anonymousMib: 0 });
  });
});

describe('memoryBesideRam', () => {
  it('excludes the RAM of QEMU, found by its name, and of Firecracker, found by its size', () => {
    expect(memoryBesideRam(SMAPS, 4096)?.proportionalMib).toBe(3);
    const firecracker = SMAPS.replaceAll(' /memfd:guest-ram (deleted)', ' ');
    expect(memoryBesideRam(firecracker, 256)?.proportionalMib).toBe(3);
  });

  it('is null if no mapping is the RAM', () => {
    const firecracker = SMAPS.replaceAll(' /memfd:guest-ram (deleted)', ' ');
    expect(memoryBesideRam(firecracker, 512)).toBeNull();
  });
});
