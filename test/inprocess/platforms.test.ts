/** Kernels and images that saves of other versions need, in the home. */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { Platforms } from '../../src/host/runtime/platforms.ts';
import type { Artifacts } from '../../src/host/runtime/setup.ts';
import { temporaryDir } from '../support/store.ts';

type Own = Pick<Artifacts, 'kernelPath' | 'kernelDigest' | 'rootImagePath' | 'rootImageDigest'>;

const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');

let home: string;
let kept: string;

beforeEach(async () => {
  home = await temporaryDir();
  kept = join(home, 'data/platforms');
});

/** What set-up makes of a version: its files are in the cache until a later one removes them. */
async function version(kernel: string, image: string): Promise<Own> {
  const cache = join(home, 'cache');
  await mkdir(cache, { recursive: true });
  const [kernelPath, rootImagePath] = [join(cache, kernel), join(cache, image)];
  await writeFile(kernelPath, kernel);
  await writeFile(rootImagePath, image);
  return { kernelPath, kernelDigest: digestOf(kernel), rootImagePath, rootImageDigest: digestOf(image) };
}

const open = (own: Own): Promise<Platforms> => Platforms.open(kept, own, silentLog);

describe('Platforms', () => {
  it('has the files of the version before, after the cache has dropped them', async () => {
    const first = await version('kernel', 'image 1');
    await open(first);
    const second = await version('kernel', 'image 2');
    const platforms = await open(second);
    await rm(first.rootImagePath);
    expect(platforms.has(first)).toBe(true);
    expect(platforms.has({ rootImageDigest: digestOf('image 3') })).toBe(false);
    await platforms.verify(first);
    const { rootImagePath = '', ...parts } = platforms.partsOf(first);
    expect(await readFile(rootImagePath, 'utf8')).toBe('image 1');
    // A file of this version is used where set-up has verified it.
    expect(parts).toEqual({ madeFrom: first, kernelPath: second.kernelPath });
    expect(platforms.partsOf(undefined)).toEqual({});
  });

  it('removes what neither this version nor a save names', async () => {
    const all = [await version('kernel', 'image 1'), await version('kernel', 'image 2')];
    for (const one of all) (await open(one)).close();
    const [first, second] = all as [Own, Own];
    const third = await version('kernel 3', 'image 3');
    const platforms = await open(third);
    await platforms.collect([second]);
    expect(platforms.has(first)).toBe(false);
    expect(platforms.has(second)).toBe(true);
    const names = [second.kernelDigest, second.rootImageDigest, third.kernelDigest, third.rootImageDigest];
    expect((await readdir(kept)).filter((name) => !name.endsWith('.verified')).sort()).toEqual(names.sort());
  });

  it('keeps what another process uses, also one of another version', async () => {
    const first = await version('kernel', 'image 1');
    const living = await open(first);
    const second = await open(await version('kernel', 'image 2'));
    await second.collect([]);
    expect(await readdir(kept)).toContain(first.rootImageDigest);
    living.close();
    await second.collect([]);
    expect(await readdir(kept)).not.toContain(first.rootImageDigest);
  });

  it('a damaged file is an error before a VM uses it', async () => {
    const first = await version('kernel', 'image 1');
    await open(first);
    const platforms = await open(await version('kernel', 'image 2'));
    await writeFile(join(kept, first.rootImageDigest), 'image !');
    await expect(platforms.verify(first)).rejects.toMatchObject({ code: 'snapshot_damaged' });
  });

  it('ignores what a killed process left, and goes on if a file can not be kept', async () => {
    const own = await version('kernel', 'image 1');
    await mkdir(kept, { recursive: true });
    await writeFile(join(kept, `${own.rootImageDigest}.part`), 'half');
    await open(own);
    expect(await readFile(join(kept, own.rootImageDigest), 'utf8')).toBe('image 1');
    const temporary = await Platforms.open(null, own, silentLog);
    await temporary.collect([]);
    expect(temporary.has(own)).toBe(true);
    const warnings: string[] = [];
    const log = { ...silentLog, warn: (text: string) => void warnings.push(text) };
    await Platforms.open(join(home, 'other'), { ...own, kernelPath: join(home, 'missing') }, log);
    expect(warnings).toHaveLength(1);
  });
});
