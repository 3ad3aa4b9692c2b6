/**
 * The golden image: Debian, Python and the wheels (guest-base), the agent and init, in one read-only EROFS. All guests
 * share the file and write to their own overlay disk (overlay.ts). Not compressed: in software emulation every page
 * would cost the guest time, and the host caches the file once for all.
 */
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, rm, symlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../../../base/clock.ts';
import type { ProgressEvent } from '../../../base/progress.ts';
import { MIB } from '../../../base/units.ts';
import { ImageError } from '../errors.ts';
import { type GuestInit, guestInit } from '../init.ts';
import { prepareOverlayTemplate } from '../overlay.ts';
import { type Job, type PrepareContext, prepareArtifact, type Recipe } from '../prepare.ts';
import { runTool } from '../tool.ts';
import { filesUnder } from '../tree.ts';
import { digestBytes } from '../verify.ts';
import { describePackages, type GuestPackages } from './debian-lock.ts';
import {
  BASE_TAR,
  baseDetailsSchema,
  compileTrees,
  guestBaseRecipe,
  makeReadable,
  placeIn,
  readLocks,
  unpackTar,
} from './guest-base.ts';
import {
  ADDED_DIR,
  AGENT_DIR,
  GUEST_CODENAME,
  IMAGE_UUID,
  INIT_PATH,
  RUN_LINKS,
  SITE_PACKAGES,
  SOURCE_DATE_EPOCH,
} from './recipe.ts';

const rootfsManifestSchema = baseDetailsSchema.extend({
  suite: z.string(),
  agentSha256: z.string(),
  /** Time of every file in the image, seconds since 1970. */
  sourceDateEpoch: z.number(),
  compiler: z.string(),
  buildSeconds: z.number(),
});
export type RootfsManifest = z.infer<typeof rootfsManifestSchema>;

/** Increment when the steps below change the result. */
const RECIPE_VERSION = 3;
const SPACE_BYTES = 1800 * MIB;
const IMAGE = 'rootfs.erofs';

/** @throws ImageError */
export async function prepareRootfs(
  context: PrepareContext,
): Promise<{
  imagePath: string;
  digest: string;
  manifest: RootfsManifest;
  packages: GuestPackages;
  overlayTemplatePath: string;
}> {
  const artifact = await prepareArtifact(context, await rootfsRecipe(context));
  const image = artifact.files.get(IMAGE);
  if (image === undefined) throw new ImageError('result_invalid', `the image has no ${IMAGE}`);
  const overlayTemplatePath = await prepareOverlayTemplate(context.cacheDir);
  return {
    imagePath: image.path,
    digest: image.sha256,
    manifest: artifact.details,
    packages: describePackages(artifact.details),
    overlayTemplatePath,
  };
}

export async function rootfsRecipe(context: PrepareContext): Promise<Recipe<RootfsManifest>> {
  const { sourceDir } = context;
  const locks = await readLocks(sourceDir);
  const { key: baseKey } = guestBaseRecipe(locks);
  const agentSha256 = await digestGuestSources(sourceDir);
  const init = await guestInit(context);
  return {
    kind: 'rootfs',
    title: 'Build the golden image',
    key: digestBytes(`rootfs ${RECIPE_VERSION}`, baseKey, agentSha256, init.identity),
    files: [IMAGE],
    spaceBytes: SPACE_BYTES,
    details: rootfsManifestSchema,
    build: async (job) => {
      const startedAtMs = systemClock.now();
      const progress = (event: ProgressEvent): void => {
        if (event.kind === 'update') {
          job.report(event.detail ?? '');
        }
      };
      const root = join(job.scratchDir, 'root');
      const base = guestBaseRecipe(locks, root);
      const made = await prepareArtifact({ ...context, signal: job.signal, progress }, base);
      const tar = made.files.get(BASE_TAR);
      if (tar === undefined) throw new ImageError('result_invalid', `the guest base has no ${BASE_TAR}`);
      if (!existsSync(root)) {
        job.report('unpack the base');
        await mkdir(root);
        await unpackTar(tar.path, root, job.signal);
      }
      const compiler = await composeImage(job, root, { sourceDir, init });
      return {
        ...made.details,
        suite: GUEST_CODENAME,
        agentSha256,
        sourceDateEpoch: SOURCE_DATE_EPOCH,
        compiler,
        buildSeconds: Math.round((systemClock.now() - startedAtMs) / 1000),
      };
    },
  };
}

/** Digest of all sources below `guest/` that are part of the image. */
async function digestGuestSources(sourceDir: string): Promise<string> {
  const guest = join(sourceDir, 'guest');
  const agent = await filesUnder(join(guest, 'agent'), isAgentSource);
  const parts: (string | Uint8Array)[] = [];
  for (const path of [...agent, join(guest, 'init.c')]) {
    parts.push(relative(guest, path), await readFile(path));
  }
  return digestBytes(...parts);
}

/**
 * Puts certificates where Debian's programs and OpenSSL look for them: those of certifi, which the wheels contain.
 * Debian's own package creates this file in a script, which can't run in an unpacked root.
 */
async function addTrustStore(root: string): Promise<void> {
  await cp(join(root, SITE_PACKAGES, 'certifi/cacert.pem'), await placeIn(root, TRUST_BUNDLE));
  await symlink(`/${dirname(TRUST_BUNDLE)}`, await placeIn(root, `${OPENSSL_DIR}/certs`));
  await symlink(`/${TRUST_BUNDLE}`, await placeIn(root, `${OPENSSL_DIR}/cert.pem`));
}

const TRUST_BUNDLE = 'etc/ssl/certs/ca-certificates.crt';
const OPENSSL_DIR = 'usr/lib/ssl';
const TRUST_PATHS = ['etc/ssl', OPENSSL_DIR];

const isAgentSource = (path: string): boolean => path.endsWith('.py');

/** @returns the compiler that built init */
async function composeImage(
  job: Job,
  root: string,
  { sourceDir, init }: { readonly sourceDir: string; readonly init: GuestInit },
): Promise<string> {
  const { signal } = job;
  for (const [path, target] of Object.entries(RUN_LINKS)) {
    await rm(join(root, path), { force: true });
    await symlink(target, join(root, path));
  }
  const agentSource = join(sourceDir, 'guest', 'agent');
  const agentDir = join(root, AGENT_DIR);
  for (const path of await filesUnder(agentSource, isAgentSource)) {
    await cp(path, await placeIn(root, join(AGENT_DIR, relative(agentSource, path))));
  }
  await compileTrees(root, [agentDir], signal);
  const compiler = await init.place(await placeIn(root, INIT_PATH), signal);
  await addTrustStore(root);
  await makeReadable(root, [ADDED_DIR, INIT_PATH, ...TRUST_PATHS], signal);

  job.report('pack the image');
  const same = ['-T', `${SOURCE_DATE_EPOCH}`, '-U', IMAGE_UUID, '--all-root', '-x', '-1'];
  await runTool('mkfs.erofs', ['--quiet', ...same, join(job.outDir, IMAGE), root], { signal });
  await rm(root, { recursive: true, force: true });
  return compiler;
}
