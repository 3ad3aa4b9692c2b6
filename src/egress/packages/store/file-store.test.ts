import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileStore } from './file-store.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-store-'));
});
afterEach(() => rm(dir, { recursive: true }));

const keyOf = (digit: string): string => `sha256-${digit.repeat(64)}`;

async function put(store: FileStore, digit: string, bytes: number, usedS: number): Promise<void> {
  const path = await store.temporary();
  await writeFile(path, Buffer.alloc(bytes));
  await utimes(path, usedS, usedS);
  await store.keep(path, keyOf(digit));
  await store.settled();
}

describe('FileStore', () => {
  it('keeps what fits, and removes the least recently used files', async () => {
    const store = new FileStore(dir, 250);
    await put(store, 'a', 100, 1000);
    await put(store, 'b', 100, 2000);
    const used = await store.find(keyOf('a'));
    expect(used?.sizeBytes).toBe(100);
    await used?.handle.close();
    await put(store, 'c', 100, 3000);
    expect((await readdir(dir)).toSorted()).toEqual([keyOf('a'), keyOf('c')]);
    expect(await store.find(keyOf('b'))).toBeUndefined();
  });

  it('an open file can be read after its eviction', async () => {
    const store = new FileStore(dir, 100);
    await put(store, 'a', 100, 1000);
    const used = await store.find(keyOf('a'));
    await rm(join(dir, keyOf('a')));
    const { bytesRead } = (await used?.handle.read(Buffer.alloc(200), 0, 200, 0)) ?? {};
    expect(bytesRead).toBe(100);
    await used?.handle.close();
  });

  it('refuses a key that is not a digest', async () => {
    const store = new FileStore(dir, 100);
    await expect(store.find('../../etc/passwd')).rejects.toThrow('invalid key');
  });

  it('downloads in progress take at most as much space as the cache', () => {
    const store = new FileStore(dir, 100);
    store.reserve(60);
    expect(() => store.reserve(41)).toThrow('larger than the cache');
    store.release(60);
    expect(() => store.reserve(100)).not.toThrow();
  });
});
