import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../../base/units.ts';
import { closeFd, createMemFd, sealContent } from '../../../sys/fd.ts';
import { openDifference } from '../difference-file.ts';
import type { CapturedDifference } from './captured-difference.ts';
import { PrivateRam, piecesOf } from './private-ram.ts';

const MAPS = `7f2c5c000000-7f2c7c000000 rw-p 00000000 00:01 2051                       /memfd:shared-ram (deleted)
7f2c7c000000-7f2c7c021000 rw-p 00000000 00:00 0
7f2c80000000-7f2c90000000 rw-s 00000000 00:01 2051                       /memfd:shared-ram (deleted)
7f2ca0000000-7f2ca0200000 rw-p 1fe00000 00:01 2051                       /memfd:shared-ram (deleted)
7f2cb0000000-7f2cb0200000 r-xp 00000000 fe:00 2051                       /usr/lib/a
`;

describe('piecesOf', () => {
  it('finds only private mappings of the file, with their offsets', () => {
    expect(piecesOf(MAPS, { dev: 1n, ino: 2051n })).toEqual([
      { address: 0x7f2c5c000000, bytes: 0x20000000, offset: 0 },
      { address: 0x7f2ca0000000, bytes: 0x200000, offset: 0x1fe00000 },
    ]);
    expect(piecesOf(MAPS, { dev: 0xfe00n, ino: 2051n })).toHaveLength(1);
    expect(piecesOf(MAPS, { dev: 1n, ino: 7n })).toEqual([]);
    expect(piecesOf('', { dev: 1n, ino: 2051n })).toEqual([]);
  });
});

/** Maps descriptor 3 privately, writes to two pages of it, and waits. */
const VMM = `
import mmap, time
m = mmap.mmap(3, 4 << 20, mmap.MAP_PRIVATE, 3)
m[0:3] = b'own'
m[(3 << 20) + 4096:(3 << 20) + 4099] = b'too'
print('ready', flush=True)
time.sleep(300)
`;
const BYTES = 4 * MIB;

function sealed(): number {
  const fd = createMemFd('ram', BYTES);
  writeSync(fd, 'all', MIB);
  sealContent(fd);
  return fd;
}

/** The same with other pages: changed, zero, as it was, changed. */
const CHANGING_VMM = VMM.replace(/m\[.*too'/s, () =>
  [
    "m[0:3] = b'new'",
    'm[1 << 20:(1 << 20) + 3] = bytes(3)',
    'm[2 << 20:(2 << 20) + 3] = bytes(3)',
    "m[(3 << 20) + 4096:(3 << 20) + 4099] = b'two'",
  ].join('\n'),
);

async function withVmm(test: (ram: PrivateRam, pid: number) => Promise<void>, program = VMM): Promise<void> {
  const fd = sealed();
  const vmm = spawn('python3', ['-c', program], { stdio: ['ignore', 'pipe', 'inherit', fd] });
  const ended = once(vmm, 'exit');
  const ram = PrivateRam.open(`/proc/self/fd/${fd}`, BYTES);
  try {
    await once(vmm.stdout ?? vmm, 'data');
    await test(ram, vmm.pid ?? 0);
  } finally {
    ram.close();
    closeFd(fd);
    vmm.kill('SIGKILL');
    await ended;
  }
}

describe('PrivateRam', () => {
  it('accepts only a file of its size, and runs guest code only on a sealed one', () => {
    const unsealed = createMemFd('ram', BYTES);
    const fd = sealed();
    const path = (of: number): string => `/proc/self/fd/${of}`;
    for (const [from, bytes] of [
      ['/proc/none', BYTES],
      [path(fd), BYTES + 4096],
    ] as const)
      expect(() => PrivateRam.open(from, bytes)).toThrow(expect.objectContaining({ code: 'vm_spec_invalid' }));
    const filling = PrivateRam.open(path(unsealed), BYTES);
    const refusal = expect.objectContaining({ code: 'vm_spec_invalid' });
    expect(() => filling.requireSealed()).toThrow(refusal);
    sealContent(unsealed);
    filling.requireSealed();
    filling.close();
    for (const of of [unsealed, fd]) closeFd(of);
  });

  it("writes only the VMM's own pages", async () => {
    const target = createMemFd('target', BYTES);
    await withVmm(async (ram, pid) => {
      ram.find(pid);
      expect(await ram.writeOwnPages(target)).toBe(2 * 4096);
    });
    const bytes = readFileSync(`/proc/self/fd/${target}`);
    closeFd(target);
    const text = (at: number): string => bytes.toString('latin1', at, at + 3);
    expect([text(0), text(MIB), text(3 * MIB + 4096)]).toEqual(['own', '\0\0\0', 'too']);
  });

  it('writes only differences, and another VMM loads them', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nv-difference-'));
    const difference = { path: join(dir, 'difference'), baseDigest: 'ab'.repeat(32) };
    const target = createMemFd('target', BYTES);
    try {
      let captured: CapturedDifference | undefined;
      await withVmm(async (ram, pid) => {
        ram.find(pid);
        expect(await ram.ownBytes()).toBe(4 * 4096);
        captured = await ram.captureDifference(difference.path, difference.baseDigest);
      }, CHANGING_VMM);
      // The VMM has ended. Of four own pages one has become zero, and one is as it was.
      expect(await captured?.write()).toBe(64 + 2 * 4096 + 3 * 8);
      await captured?.close();
      await withVmm(async (ram, pid) => {
        ram.find(pid);
        await using opened = await openDifference(difference, BYTES);
        await ram.load(opened);
        expect(await ram.ownBytes()).toBe(3 * 4096);
        await ram.writeOwnPages(target);
      });
      const bytes = readFileSync(`/proc/self/fd/${target}`);
      const text = (at: number): string => bytes.toString('latin1', at, at + 3);
      expect([text(0), text(MIB), text(3 * MIB + 4096)]).toEqual(['new', '\0\0\0', 'two']);
    } finally {
      closeFd(target);
      rmSync(dir, { recursive: true });
    }
  });

  it('reads nothing more once it is closed in mid-save', async () => {
    const target = createMemFd('target', BYTES);
    await withVmm(async (ram, pid) => {
      ram.find(pid);
      const writing = ram.writeOwnPages(target);
      ram.close();
      await expect(writing).rejects.toMatchObject({ code: 'vm_gone' });
      await expect(ram.writeOwnPages(target)).rejects.toMatchObject({ code: 'vm_gone' });
    });
    closeFd(target);
  });

  it('finds nothing once it is closed, even if its number is reused for the same memory', async () => {
    await withVmm(async (ram, pid) => {
      const again = `/proc/self/fd/${ram.fd}`;
      const other = PrivateRam.open(again, BYTES);
      ram.close();
      const reused = PrivateRam.open(`/proc/self/fd/${other.fd}`, BYTES);
      expect(reused.fd).toBe(ram.fd);
      const gone = expect.objectContaining({ code: 'vm_gone' });
      expect(() => ram.requireSealed()).toThrow(gone);
      expect(() => ram.find(pid)).toThrow(gone);
      for (const one of [other, reused]) one.close();
    });
  });

  it('the error names a remedy if the memory is not found', () => {
    const fd = sealed();
    const ram = PrivateRam.open(`/proc/self/fd/${fd}`, BYTES);
    closeFd(fd);
    expect(() => ram.find(process.pid)).toThrow(
      expect.objectContaining({ remedy: expect.stringContaining('NEUROVISOR_MEMORY_SHARING=copy') }),
    );
    ram.close();
  });
});
