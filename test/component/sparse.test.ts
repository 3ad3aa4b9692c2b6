/** Sparse copies and digests on this machine's file systems: one in memory and that of /tmp. */
import { randomBytes } from 'node:crypto';
import { existsSync, truncateSync } from 'node:fs';
import { mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cloneSparse, copyDataBetween, copySparse, copyWithoutZeros, digestSparse } from '../../src/sys/sparse.ts';

const PAGE = 4096;
const SIZE = 40 * 1024 * 1024 + 100;
const ALLOCATED_SLACK_BYTES = 256 * 1024;
let disk = '';
let memory = '';
let source = '';
/** Content of `source`, and its number of bytes outside holes. */
let content = Buffer.alloc(0);

beforeAll(async () => {
  disk = await mkdtemp(join(tmpdir(), 'nv-sparse-'));
  memory = await mkdtemp('/dev/shm/nv-sparse-');
  source = join(disk, 'source');
  content = Buffer.alloc(SIZE);
  const put = (at: number, bytes: number): void => void randomBytes(bytes).copy(content, at);
  put(0, 10);
  put(3 * PAGE + 5, PAGE);
  put(9 * 1024 * 1024 - 3, 3 * 1024 * 1024);
  put(SIZE - 50, 50);
  await using file = await open(source, 'w');
  await file.truncate(SIZE);
  for (const [at, bytes] of [
    [0, PAGE],
    [3 * PAGE, 2 * PAGE],
    // Written zeros, not holes.
    [1024 * 1024, 1024 * 1024],
    [9 * 1024 * 1024 - PAGE, 3 * 1024 * 1024 + PAGE],
    [SIZE - 100, 100],
  ] as const) {
    await file.write(content, at, bytes, at);
  }
});
afterAll(async () => {
  for (const dir of [disk, memory]) await rm(dir, { recursive: true });
});

const allocated = async (path: string): Promise<number> => (await stat(path)).blocks * 512;

describe.each([
  ['copySparse', copySparse, 4],
  ['copyWithoutZeros', copyWithoutZeros, 3],
  ['cloneSparse', cloneSparse, 4],
] as const)('%s', (name, copy, mebibytes) => {
  it.each(['disk', 'memory'])('copies content and size to %s, and leaves holes', async (where) => {
    const target = join(where === 'disk' ? disk : memory, name);
    await copy(source, target);
    expect((await readFile(target)).equals(content)).toBe(true);
    const bytes = await allocated(target);
    expect(bytes).toBeGreaterThan(0);
    expect(bytes).toBeLessThan(mebibytes * 1024 * 1024 + ALLOCATED_SLACK_BYTES);
  });

  it('refuses an existing target, and does not change it', async () => {
    const target = join(disk, `${name}-taken`);
    await writeFile(target, 'mine');
    await expect(copy(source, target)).rejects.toMatchObject({ code: 'EEXIST' });
    expect(await readFile(target, 'utf8')).toBe('mine');
  });

  it('a missing source: no target is left', async () => {
    const target = join(disk, `${name}-none`);
    await expect(copy(join(disk, 'none'), target)).rejects.toMatchObject({ code: 'ENOENT' });
    expect(existsSync(target)).toBe(false);
  });
});

describe('copyDataBetween', () => {
  it('copies only the requested bytes of a file that has grown', async () => {
    const path = join(memory, 'grown');
    const bytes = 10 * 1024 * 1024;
    await using from = await open(source, 'r');
    await using to = await open(path, 'wx');
    await to.truncate(bytes);
    await copyDataBetween(from.fd, to.fd, bytes);
    expect((await readFile(path)).equals(content.subarray(0, bytes))).toBe(true);
  });

  it('reports a file that has shrunk', async () => {
    const paths = [join(disk, 'shrinks'), join(memory, 'shrunk')] as const;
    await writeFile(paths[0], Buffer.alloc(64 * PAGE, 1));
    await using from = await open(paths[0], 'r+');
    await using to = await open(paths[1], 'wx');
    const bytes = 8 * 1024 * 1024;
    await writeFile(paths[0], Buffer.alloc(bytes, 1));
    const copied = expect(copyDataBetween(from.fd, to.fd, bytes)).rejects.toThrow('shrank');
    truncateSync(paths[0], PAGE);
    await copied;
  });
});

describe('digestSparse', () => {
  it('is independent of holes, and differs for each flipped or moved byte', async () => {
    const same = join(memory, 'same');
    await writeFile(same, content);
    const digest = await digestSparse(source);
    expect(await digestSparse(same)).toBe(digest);
    for (const at of [0, 3 * PAGE + 5, 20 * 1024 * 1024, SIZE - 1]) {
      const changed = Buffer.from(content);
      changed[at] = (changed[at] ?? 0) ^ 1;
      await writeFile(same, changed);
      expect(await digestSparse(same)).not.toBe(digest);
    }
    await writeFile(same, content.subarray(0, -1));
    expect(await digestSparse(same)).not.toBe(digest);
    await writeFile(same, Buffer.concat([content, Buffer.alloc(1)]));
    expect(await digestSparse(same)).not.toBe(digest);
  });
});
