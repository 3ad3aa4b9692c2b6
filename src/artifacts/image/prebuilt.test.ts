import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { PREBUILT_MANIFEST } from '../../base/prebuilt/manifest.ts';
import { silentProgress } from '../../base/progress.ts';
import { buildsFromSource, chooseBuilds } from './build-choice.ts';
import { guestInit } from './init.ts';
import {
  describeKernel,
  isKernelBuilt,
  prebuiltKernelDir,
  prebuiltKernelSchema,
  prepareKernel,
  readKernelInputs,
} from './kernel/kernel.ts';
import { compressedPath, readShipped, unpackPrebuilt } from './prebuilt.ts';
import type { PrepareContext } from './prepare.ts';
import { neededPackages } from './prepared.ts';

let root: string;
let context: PrepareContext;
const vmlinux = randomBytes(300_000);
const archive = (): string => compressedPath(prebuiltKernelDir(root), 'vmlinux');
const manifestPath = (): string => join(prebuiltKernelDir(root), PREBUILT_MANIFEST);

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'nv-prebuilt-'));
  context = contextOf(new AbortController().signal);
  await mkdir(prebuiltKernelDir(root), { recursive: true });
  await mkdir(join(root, 'guest'));
  await writeFile(join(root, 'guest/init.c'), 'int main(void) { return 0; }');
  await writeFile(join(root, 'kernel/guest.config'), 'CONFIG_64BIT=y\n');
  await writeFile(join(root, 'kernel/deny.txt'), 'MODULES none\n');
  await ship(vmlinux);
});
afterEach(() => rm(root, { recursive: true }));

const contextOf = (signal: AbortSignal): PrepareContext => ({
  cacheDir: join(root, 'cache'),
  sourceDir: root,
  progress: silentProgress,
  signal,
  log: silentLog,
});

/** @param content of the archive; the manifest is always that of `vmlinux` */
async function ship(content: Buffer): Promise<void> {
  await writeFile(archive(), zstdCompressSync(content));
  await writeFile(join(prebuiltKernelDir(root), 'config'), 'CONFIG_64BIT=y\n');
  const manifest = {
    inputs: (await readKernelInputs(root)).digest,
    source: { package: 'linux-source-6.12', version: '6.12.1-1', sha256: '0'.repeat(64) },
    kernelVersion: '6.12.1',
    tools: { gcc: 'gcc 12' },
    files: { vmlinux: { sha256: createHash('sha256').update(vmlinux).digest('hex'), sizeBytes: vmlinux.length } },
  };
  await writeFile(manifestPath(), JSON.stringify(manifest));
}

/** Expects neither an artifact nor an unfinished one. */
async function expectNothingMade(): Promise<void> {
  const { cacheDir } = context;
  for (const kind of ['kernel', 'tmp'])
    if (existsSync(join(cacheDir, kind))) expect(await readdir(join(cacheDir, kind))).toEqual([]);
}

describe('prepareKernel', () => {
  it('unpacks the shipped kernel without a compiler or a kernel source', async () => {
    const { path, digest, manifest } = await prepareKernel(context);
    expect(await readFile(path)).toEqual(vmlinux);
    expect(digest).toBe(createHash('sha256').update(vmlinux).digest('hex'));
    expect(manifest).toMatchObject({ origin: 'prebuilt', kernelVersion: '6.12.1' });
    expect(await describeKernel(context)).toEqual(manifest);
  });

  it.each([
    ['truncated', () => truncate(archive(), 1000)],
    ['empty', () => truncate(archive(), 0)],
    ['not an archive', () => writeFile(archive(), 'no archive')],
    ['missing', () => rm(archive())],
    ['of other content', () => ship(randomBytes(vmlinux.length))],
    ['shorter', () => ship(vmlinux.subarray(1))],
    ['larger than its manifest says', () => ship(Buffer.concat([vmlinux, randomBytes(9)]))],
    ['without a manifest that can be read', () => writeFile(manifestPath(), '{"inputs":')],
    ['with a manifest of another form', () => writeFile(manifestPath(), '{"inputs":1}')],
  ])('a kernel that is %s gives one error with the remedy and leaves nothing; then it works', async (_, damage) => {
    await damage();
    await expect(prepareKernel(context)).rejects.toMatchObject({
      code: 'source_invalid',
      remedy: expect.stringContaining('neurovisor setup --build-kernel'),
    });
    await expectNothingMade();
    await ship(vmlinux);
    expect((await prepareKernel(context)).manifest.origin).toBe('prebuilt');
  });

  it('an error of a full disk is not taken for a damaged file', async () => {
    const manifest = await readShipped(prebuiltKernelDir(root), prebuiltKernelSchema);
    if (manifest === undefined) throw new Error('none is shipped');
    const { signal } = context;
    const dir = prebuiltKernelDir(root);
    // Each write to this device fails with ENOSPC.
    const unpacking = { dir, name: 'vmlinux', manifest, to: '/dev/full', signal };
    await expect(unpackPrebuilt(unpacking)).rejects.toMatchObject({ code: 'ENOSPC' });
  });

  it('an interruption leaves nothing; then it works', async () => {
    const aborter = new AbortController();
    const interrupted = contextOf(aborter.signal);
    const progress: PrepareContext['progress'] = ({ kind }) => {
      if (kind === 'start') queueMicrotask(() => aborter.abort());
    };
    await expect(prepareKernel({ ...interrupted, progress })).rejects.toMatchObject({ code: 'cancelled' });
    await expectNothingMade();
    expect((await prepareKernel(context)).manifest.origin).toBe('prebuilt');
  });
});

describe('isKernelBuilt', () => {
  it('a changed option needs a build, a changed comment does not', async () => {
    expect(await isKernelBuilt(context)).toBe(false);
    await writeFile(join(root, 'kernel/guest.config'), '# why\nCONFIG_64BIT=y\n');
    expect(await isKernelBuilt(context)).toBe(false);
    await writeFile(join(root, 'kernel/guest.config'), 'CONFIG_64BIT=y\nCONFIG_SMP=y\n');
    expect(await isKernelBuilt(context)).toBe(true);
  });

  it('a checkout without a shipped kernel needs a build', async () => {
    await rm(prebuiltKernelDir(root), { recursive: true });
    expect(await isKernelBuilt(context)).toBe(true);
  });
});

describe('chooseBuilds', () => {
  it('the choice to build from source is kept until it is revoked, and reads nothing that is shipped', async () => {
    await writeFile(manifestPath(), 'damaged');
    await chooseBuilds(context.cacheDir, true);
    await chooseBuilds(context.cacheDir, true);
    expect(await buildsFromSource(context.cacheDir)).toBe(true);
    expect(await isKernelBuilt(context)).toBe(true);
    await ship(vmlinux);
    await chooseBuilds(context.cacheDir, false);
    await chooseBuilds(context.cacheDir, false);
    expect(await isKernelBuilt(context)).toBe(false);
  });
});

describe('neededPackages', () => {
  const names = async (): Promise<string[]> => (await neededPackages(context)).map(({ name }) => name);

  it('needs a compiler only for an init built here, and kernel tools only for a kernel built here', async () => {
    expect(await names()).toEqual(expect.arrayContaining(['gcc', 'libc6-dev']));
    expect(await names()).not.toContain('flex');
    await rm(prebuiltKernelDir(root), { recursive: true });
    const all = await names();
    expect(all).toEqual(expect.arrayContaining(['flex', 'bison', 'linux-source-6.12']));
    expect(new Set(all).size).toBe(all.length);
  });

  it('needs neither compiler nor kernel source for this checkout', async () => {
    const sourceDir = PACKAGE_DIR;
    const needed = await neededPackages({ ...context, sourceDir });
    const compilers = ['gcc', 'libc6-dev', 'make', 'flex', 'bison', 'bc', 'libelf-dev', 'xz-utils'];
    expect(needed.filter(({ name }) => compilers.includes(name))).toEqual([]);
    expect(needed.filter(({ check }) => check.kind === 'kernel-source')).toEqual([]);
  });
});

describe('guestInit', () => {
  it('the shipped and the compiled program have different identities', async () => {
    const sourceDir = PACKAGE_DIR;
    const shipped = await guestInit({ ...context, sourceDir });
    expect(shipped.isBuilt).toBe(false);
    await chooseBuilds(context.cacheDir, true);
    const built = await guestInit({ ...context, sourceDir });
    expect(built.isBuilt).toBe(true);
    expect(built.identity).not.toBe(shipped.identity);
  });
});
