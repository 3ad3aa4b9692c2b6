import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../../../base/units.ts';
import { closeFd, createMemFd } from '../../../sys/fd.ts';
import { PAGE_BYTES } from '../../../sys/memory.ts';
import { readProcess } from '../../../sys/process-memory.ts';
import { applyDifference } from '../difference-file.ts';
import { CapturedDifference, makeRoom } from './captured-difference.ts';

const BYTES = 160 * MIB;
const DIGEST = 'ab'.repeat(32);
let dir = '';
let base = -1;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-captured-'));
  base = createMemFd('base', BYTES);
});
afterEach(() => {
  closeFd(base);
  rmSync(dir, { recursive: true });
});

const descriptors = (): number => readdirSync('/proc/self/fd').length;

describe('CapturedDifference', () => {
  it.each<[number | null, string]>([
    [null, 'none'],
    [10 * MIB, 'too little'],
    [200 * MIB, 'enough'],
  ])('holds up to 128 MiB, and writes the rest at once; room for %s bytes: %s', async (own) => {
    const room = own === null ? undefined : await makeRoom(own);
    const before = descriptors();
    const path = join(dir, 'difference');
    const captured = await CapturedDifference.open(path, base, BYTES, DIGEST, room);
    const guest = createMemFd('guest', BYTES);
    for (let offset = 0; offset < BYTES; offset += MIB) {
      // One page in each megabyte differs; the others are zero, as in the base.
      writeSync(guest, Buffer.alloc(PAGE_BYTES, 1 + offset / MIB), 0, PAGE_BYTES, offset);
      expect(readProcess(guest, offset, captured.place(offset, MIB), MIB)).toBe(MIB);
    }
    expect(await captured.write()).toBe(64 + 160 * (PAGE_BYTES + 8));
    await captured.close();
    const target = createMemFd('target', BYTES);
    await applyDifference({ path, baseDigest: DIGEST }, `/proc/self/fd/${target}`);
    const same = (fd: number): Buffer => readFileSync(`/proc/self/fd/${fd}`);
    expect(same(target).equals(same(guest))).toBe(true);
    for (const fd of [guest, target]) closeFd(fd);
    expect(descriptors()).toBe(before);
  });

  it('compares and writes only as much as the next pages need room', async () => {
    const path = join(dir, 'difference');
    const captured = await CapturedDifference.open(path, base, BYTES, DIGEST);
    const guest = createMemFd('guest', MIB);
    writeSync(guest, Buffer.alloc(MIB, 1));
    const sizes: number[] = [];
    for (let offset = 0; offset < 131 * MIB; offset += MIB) {
      expect(readProcess(guest, 0, captured.place(offset, MIB), MIB)).toBe(MIB);
      sizes.push(statSync(path).size);
    }
    expect(sizes.slice(-4)).toEqual([0, 1, 2, 3].map((mib) => (mib === 0 ? 0 : 64 + mib * MIB)));
    closeFd(guest);
    await captured.close();
  });

  it('makeRoom: allocates whole buffers for a bit more than requested, up to the limit', async () => {
    const buffers = async (bytes: number): Promise<number> => (await makeRoom(bytes)).buffers.length;
    expect([await buffers(0), await buffers(9 * MIB), await buffers(900 * MIB)]).toEqual([1, 3, 33]);
  });

  it('close: without a write, no file stays open', async () => {
    const before = descriptors();
    const captured = await CapturedDifference.open(join(dir, 'd'), base, BYTES, DIGEST);
    captured.place(0, PAGE_BYTES);
    await captured.close();
    expect(descriptors()).toBe(before);
  });
});
