/** The content store: returns only complete, unaltered artifacts, or builds them. */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, stat, utimes, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ImageError } from '../../src/artifacts/image/errors.ts';
import { holdArtifact, isCached, prepareArtifact } from '../../src/artifacts/image/prepare.ts';
import { makeWorkDir, removeLeftovers } from '../../src/artifacts/image/work-dir.ts';
import { testContext, tinyRecipe } from '../support/image.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

describe('prepareArtifact', () => {
  it('builds once, then uses the cache and reports that', async () => {
    const context = await testContext();
    const recipe = tinyRecipe('content');
    expect(await isCached(context.cacheDir, recipe)).toBe(false);
    const made = await prepareArtifact(context, recipe);
    expect(made.files.get('thing')?.sha256).toBe(sha256('content'));
    expect(await isCached(context.cacheDir, recipe)).toBe(true);
    const again = await prepareArtifact(context, recipe);
    expect(again).toEqual(made);
    expect(recipe.builds()).toBe(1);
    const done = context.events.filter((event) => event.kind === 'done');
    expect(done.map((event) => event.kind === 'done' && event.cached)).toEqual([false, true]);
  });

  it('a failed build is cleaned up, and the next one succeeds', async () => {
    const context = await testContext();
    let fail = true;
    const recipe = tinyRecipe('x', {
      during: async () => {
        if (fail) throw new Error('the build broke');
      },
    });
    await expect(prepareArtifact(context, recipe)).rejects.toThrow('the build broke');
    expect(await readdir(join(context.cacheDir, 'tmp'))).toEqual([]);
    expect(await isCached(context.cacheDir, recipe)).toBe(false);
    expect(context.events.at(-1)).toMatchObject({ kind: 'failed', step: 'tiny' });
    fail = false;
    await prepareArtifact(context, recipe);
    expect(recipe.builds()).toBe(2);
  });

  it('does not store an artifact whose build was cancelled at the last moment', async () => {
    const aborter = new AbortController();
    const context = await testContext(aborter.signal);
    const recipe = tinyRecipe('x', { during: async () => aborter.abort() });
    await expect(prepareArtifact(context, recipe)).rejects.toThrow();
    expect(await isCached(context.cacheDir, recipe)).toBe(false);
    expect(await readdir(join(context.cacheDir, 'tmp'))).toEqual([]);
  });

  it('rebuilds an altered artifact: longer, or one byte with the old time restored', async () => {
    const context = await testContext();
    const recipe = tinyRecipe('content');
    const made = await prepareArtifact(context, recipe);
    const path = made.files.get('thing')?.path ?? '';
    await writeFile(path, 'content and more');
    await prepareArtifact(context, recipe);
    expect(await readFile(path, 'utf8')).toBe('content');
    expect(recipe.builds()).toBe(2);

    const before = await stat(path);
    await writeFile(path, 'cOntent');
    await utimes(path, before.atime, before.mtime);
    await prepareArtifact(context, recipe);
    expect(await readFile(path, 'utf8')).toBe('content');
    expect(recipe.builds()).toBe(3);
    expect(context.warnings).toHaveLength(2);
  });

  it.each([
    ['no JSON', 'garbage'],
    ['an unknown format', '{"format":99}'],
    ['another artifact', '{"format":1,"kind":"tiny","key":"other","files":{},"details":{}}'],
  ])('builds again when the manifest is %s', async (_, manifest) => {
    const context = await testContext();
    const recipe = tinyRecipe('content');
    const { dir } = await prepareArtifact(context, recipe);
    await writeFile(join(dir, 'manifest.json'), manifest);
    await prepareArtifact(context, recipe);
    expect(recipe.builds()).toBe(2);
  });

  it('refuses before the build when the disk is too small, and names the size', async () => {
    const context = await testContext();
    const recipe = tinyRecipe('x', { spaceBytes: 1024 ** 5 });
    const error = await prepareArtifact(context, recipe).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ImageError);
    expect(error).toMatchObject({ code: 'disk_full' });
    expect(String(error)).toContain('1073741824 MiB');
    expect(recipe.builds()).toBe(0);
  });

  it('also names the size when the disk fills up during the build', async () => {
    const context = await testContext();
    const recipe = tinyRecipe('x', {
      during: async () => {
        throw Object.assign(new Error('write'), { code: 'ENOSPC' });
      },
    });
    await expect(prepareArtifact(context, recipe)).rejects.toMatchObject({
      code: 'disk_full',
      message: expect.stringContaining('1 MiB'),
    });
  });

  it('keeps the current artifact and one older of its kind', async () => {
    const context = await testContext();
    for (const content of ['a', 'b', 'c']) await prepareArtifact(context, tinyRecipe(content));
    const kept = await readdir(join(context.cacheDir, 'tiny'));
    expect(kept).toHaveLength(2);
    expect(kept).toContain('key-of-c');
  });

  it('keeps an artifact that is held, however many are newer, until it is released', async () => {
    const context = await testContext();
    const make = (content: string) => prepareArtifact(context, tinyRecipe(content));
    const { dir } = await make('daemon');
    const releases = [holdArtifact(dir), holdArtifact(dir)];
    for (const content of ['a', 'b', 'c']) await make(content);
    const kept = (): Promise<string[]> => readdir(join(context.cacheDir, 'tiny'));
    expect(await kept()).toContain('key-of-daemon');
    releases.pop()?.();
    await make('d');
    expect(await kept()).toContain('key-of-daemon');
    releases.pop()?.();
    await make('e');
    expect((await kept()).sort()).toEqual(['key-of-d', 'key-of-e']);
    expect(() => holdArtifact(dir)).toThrow('ENOENT');
  });
});

describe('locks of artifacts', () => {
  it('prepareArtifact: other artifacts, and existing ones, are not blocked by a build', async () => {
    const context = await testContext();
    const slow = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    await prepareArtifact(context, tinyRecipe('there'));
    const building = prepareArtifact(
      context,
      tinyRecipe('slow', {
        during: async () => {
          begun.resolve();
          await slow.promise;
        },
      }),
    );
    await begun.promise;
    const there = tinyRecipe('there');
    await prepareArtifact(context, there);
    await prepareArtifact(context, tinyRecipe('other'));
    expect(there.builds()).toBe(0);
    slow.resolve();
    await building;
    expect(await readdir(join(context.cacheDir, 'locks'))).toEqual([]);
  });

  it('prepareArtifact: a second caller waits for the same build, gets the reason, and builds nothing', async () => {
    const first = await testContext();
    const second = { ...(await testContext()), cacheDir: first.cacheDir };
    const slow = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const recipe = tinyRecipe('content', {
      during: async () => {
        begun.resolve();
        await slow.promise;
      },
    });
    const one = prepareArtifact(first, recipe);
    await begun.promise;
    const two = prepareArtifact(second, recipe);
    await expect.poll(() => second.events.length).toBe(1);
    expect(second.events[0]).toMatchObject({ title: 'Wait for another request: Make a tiny thing' });
    slow.resolve();
    await Promise.all([one, two]);
    expect(recipe.builds()).toBe(1);
    expect(second.events.at(-1)).toMatchObject({ step: 'tiny', cached: true });
  });
});

describe('removeLeftovers', () => {
  it('removes leftovers of a killed build, and nothing else', async () => {
    const context = await testContext();
    await prepareArtifact(context, tinyRecipe('content'));
    const left = join(context.cacheDir, 'tmp', 'tiny-killed', 'scratch');
    await mkdir(left, { recursive: true });
    await writeFile(join(left, 'half'), 'x');
    const running = await makeWorkDir(context.cacheDir, 'tiny');
    await removeLeftovers(context.cacheDir);
    expect(await readdir(join(context.cacheDir, 'tmp'))).toEqual([basename(running.path)]);
    await running.remove();
    expect(await readdir(join(context.cacheDir, 'tmp'))).toEqual([]);
    expect(await isCached(context.cacheDir, tinyRecipe('content'))).toBe(true);
  });
});
