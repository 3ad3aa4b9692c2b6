/**
 * Two builds of the golden image from the same inputs are equal, byte for byte. The second one differs in all that must
 * not matter: directory, file system (and with it the order of directories), umask, time zone and hour.
 *
 * Debian, wheels and bytecode take a minute and the network, so a full run builds them a second time, and only once for
 * each key of the recipe: on a fresh machine, or when recipe or lock files change. The digest of that build is kept in the
 * cache, and compared with the base of which this machine's image is made.
 */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { z } from 'zod';
import { type PrepareContext, prepareArtifact } from '../../src/artifacts/image/prepare.ts';
import { debianPackagesSchema } from '../../src/artifacts/image/rootfs/debian-lock.ts';
import { BASE_TAR, guestBaseRecipe, readLocks } from '../../src/artifacts/image/rootfs/guest-base.ts';
import { prepareRootfs } from '../../src/artifacts/image/rootfs/rootfs.ts';
import { testContext } from '../support/image.ts';
import { requiresFullRun } from '../support/requires.ts';
import { useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
/** In memory: another file system than the home's, where the host has it. */
const MEMORY_DIR = '/dev/shm';
/** Only the builder may read. */
const STRICT_UMASK = 0o077;
/** The cache keeps the results of second builds here. */
const RECORDS = 'test-image';

const buildSchema = z.object({ sha256: z.string(), packages: debianPackagesSchema });
type Build = z.infer<typeof buildSchema>;

let dir: string;
let umask: number;
beforeAll(async () => {
  dir = await mkdtemp(join(existsSync(MEMORY_DIR) ? MEMORY_DIR : tmpdir(), 'nv-image-'));
  umask = process.umask(STRICT_UMASK);
  process.env['TZ'] = 'Asia/Tokyo';
});
afterAll(async () => {
  process.umask(umask);
  delete process.env['TZ'];
  await rm(dir, { recursive: true });
});

async function buildBase(context: PrepareContext): Promise<Build> {
  const recipe = guestBaseRecipe(await readLocks(context.sourceDir));
  const { files, details } = await prepareArtifact(context, recipe);
  return { sha256: files.get(BASE_TAR)?.sha256 ?? '', packages: details.packages };
}

const hasSamePackages = (a: Build, b: Build): boolean => JSON.stringify(a.packages) === JSON.stringify(b.packages);

/** A build from nothing in a directory of its own. */
async function buildBaseAlone(): Promise<Build> {
  return await buildBase(await testContext());
}

it('two builds of the golden image from one base are bit-identical', async () => {
  const { home, artifacts } = fixture.runtime;
  await symlink(join(home.cacheDir, 'guest-base'), join(dir, 'guest-base'));
  const second = await prepareRootfs({ ...(await testContext()), cacheDir: dir });
  expect(second.imagePath.startsWith(dir)).toBe(true);
  expect(second.digest).toBe(artifacts.rootImageDigest);
});

const full = requiresFullRun('tcg', () => true as const);
full.it('two builds of its base, with Debian, wheels and bytecode, are bit-identical', async () => {
  const { cacheDir } = fixture.runtime.home;
  const context = { ...(await testContext()), cacheDir };
  const { key } = guestBaseRecipe(await readLocks(context.sourceDir));
  const path = join(cacheDir, RECORDS, `${key}.json`);
  const first = await buildBase(context);
  const kept = existsSync(path) ? buildSchema.parse(JSON.parse(await readFile(path, 'utf8'))) : undefined;
  if (kept !== undefined && hasSamePackages(kept, first)) {
    expect(kept).toEqual(first);
    return;
  }
  const second = await buildBaseAlone();
  if (!hasSamePackages(second, first)) {
    // Debian's mirrors have moved since the first build, so only two builds of today can be equal.
    expect(await buildBaseAlone()).toEqual(second);
    return;
  }
  expect(second).toEqual(first);
  await mkdir(join(cacheDir, RECORDS), { recursive: true });
  await writeFile(path, JSON.stringify(second));
});
