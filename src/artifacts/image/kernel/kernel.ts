/**
 * The guest kernel: the shipped one if it fits this checkout's configuration; otherwise, or if `setup --build-kernel`
 * asked for it, one built here from the distribution's kernel source (`build.ts`).
 */
import { copyFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { PREBUILT_DIR, prebuiltSchema } from '../../../base/prebuilt/manifest.ts';
import { MIB } from '../../../base/units.ts';
import { buildsFromSource } from '../build-choice.ts';
import { ImageError } from '../errors.ts';
import { readShipped, unpackPrebuilt } from '../prebuilt.ts';
import { cachedDetails, type PrepareContext, prepareArtifact, type Recipe } from '../prepare.ts';
import { digestBytes } from '../verify.ts';
import { buildKernel, type KernelInputs, RECIPE_VERSION } from './build.ts';
import { parseDenied, parseKernelConfig, parseOptional } from './config.ts';
import { findKernelSource, type KernelSource } from './source.ts';

const sourceSchema = z.object({
  /** Debian package. */
  package: z.string(),
  version: z.string(),
  /** SHA-256 of the archive in that package. */
  sha256: z.string(),
});

const kernelManifestSchema = z.object({
  origin: z.enum(['prebuilt', 'built here']),
  source: sourceSchema,
  /** Version of the kernel, e.g. `6.12.117`. */
  kernelVersion: z.string(),
  tools: z.record(z.string(), z.string()),
});
export type KernelManifest = z.infer<typeof kernelManifestSchema>;

export const prebuiltKernelSchema = prebuiltSchema.extend({ source: sourceSchema, kernelVersion: z.string() });
export type PrebuiltKernel = z.infer<typeof prebuiltKernelSchema>;

export const VMLINUX = 'vmlinux';
/** The final configuration, for people. */
export const CONFIG = 'config';
const KERNEL_FILES = [VMLINUX, CONFIG];
const TITLE = 'guest kernel';
const BUILD_SPACE_BYTES = 1100 * MIB;
/** More than a vmlinux of this configuration ever had. */
const UNPACK_SPACE_BYTES = 64 * MIB;

export type KernelContext = Pick<PrepareContext, 'cacheDir' | 'sourceDir'>;

/** @throws ImageError */
export async function prepareKernel(
  context: PrepareContext,
): Promise<{ path: string; digest: string; manifest: KernelManifest }> {
  const artifact = await prepareArtifact(context, await kernelRecipe(context));
  const vmlinux = artifact.files.get(VMLINUX);
  if (vmlinux === undefined) throw new ImageError('result_invalid', 'the kernel has no vmlinux');
  return { path: vmlinux.path, digest: vmlinux.sha256, manifest: artifact.details };
}

/** @throws ImageError `source_invalid` if the prebuilt kernel is damaged, or no kernel source is installed */
export async function kernelRecipe(context: KernelContext): Promise<Recipe<KernelManifest>> {
  const inputs = await readKernelInputs(context.sourceDir);
  const prebuilt = await fittingKernel(context, inputs);
  if (prebuilt !== undefined) return unpackRecipe(context.sourceDir, prebuilt);
  return await recipeOfBuild(inputs);
}

/** Builds the kernel here although one is shipped. @throws ImageError */
export async function prepareBuiltKernel(context: PrepareContext): Promise<void> {
  const inputs = await readKernelInputs(context.sourceDir);
  await prepareArtifact(context, await recipeOfBuild(inputs));
}

async function recipeOfBuild(inputs: KernelInputs): Promise<Recipe<KernelManifest>> {
  const source = await findKernelSource();
  if (source !== undefined) return buildRecipe(inputs, source);
  throw new ImageError('source_invalid', 'no kernel source in /usr/src', {
    remedy: 'Install the package linux-source-6.12 (or linux-source), or run `neurovisor setup` as root.',
  });
}

/** The kernel that a start uses; undefined if it still has to be built here. @throws ImageError `source_invalid` */
export async function describeKernel(context: KernelContext): Promise<KernelManifest | undefined> {
  const prebuilt = await fittingKernel(context, await readKernelInputs(context.sourceDir));
  if (prebuilt !== undefined) return prebuiltDetails(prebuilt);
  if ((await findKernelSource()) === undefined) return undefined;
  return await cachedDetails(context.cacheDir, await kernelRecipe(context));
}

/** True if set-up builds the kernel here, which needs a compiler and the kernel's source. @throws ImageError */
export async function isKernelBuilt(context: KernelContext): Promise<boolean> {
  return (await fittingKernel(context, await readKernelInputs(context.sourceDir))) === undefined;
}

export async function readKernelInputs(sourceDir: string): Promise<KernelInputs> {
  const fragmentPath = join(sourceDir, 'kernel', 'guest.config');
  const fragment = await readFile(fragmentPath, 'utf8');
  const denied = await readFile(join(sourceDir, 'kernel', 'deny.txt'), 'utf8');
  // Covers only the options, so that a changed comment does not cost a build of four minutes.
  const options = [...parseKernelConfig(fragment)].map((pair) => pair.join('=')).sort();
  const parts = [options, [...parseOptional(fragment)], parseDenied(denied)].map(String);
  const digest = digestBytes(`kernel ${RECIPE_VERSION}`, ...parts);
  return { fragmentPath, fragment, denied, digest };
}

export function buildRecipe(inputs: KernelInputs, source: KernelSource): Recipe<KernelManifest> {
  return {
    kind: 'kernel',
    title: `Build the ${TITLE}`,
    key: digestBytes(inputs.digest, source.identity),
    files: KERNEL_FILES,
    spaceBytes: BUILD_SPACE_BYTES,
    details: kernelManifestSchema,
    build: async (job) => ({ origin: 'built here', ...(await buildKernel(job, inputs, source)) }),
  };
}

function unpackRecipe(sourceDir: string, prebuilt: PrebuiltKernel): Recipe<KernelManifest> {
  const dir = prebuiltKernelDir(sourceDir);
  return {
    kind: 'kernel',
    title: `Unpack the ${TITLE}`,
    key: digestBytes('prebuilt', prebuilt.inputs, prebuilt.files[VMLINUX]?.sha256 ?? ''),
    files: KERNEL_FILES,
    spaceBytes: UNPACK_SPACE_BYTES,
    details: kernelManifestSchema,
    build: async ({ outDir, signal }) => {
      const to = join(outDir, VMLINUX);
      await unpackPrebuilt({ dir, name: VMLINUX, manifest: prebuilt, to, signal });
      await copyFile(join(dir, CONFIG), join(outDir, CONFIG));
      return prebuiltDetails(prebuilt);
    },
  };
}

function prebuiltDetails({ source, kernelVersion, tools }: PrebuiltKernel): KernelManifest {
  return { origin: 'prebuilt', source, kernelVersion, tools };
}

export const prebuiltKernelDir = (sourceDir: string): string => join(sourceDir, 'kernel', PREBUILT_DIR);

/** @returns undefined if it has to be built */
async function fittingKernel(
  { cacheDir, sourceDir }: KernelContext,
  { digest }: KernelInputs,
): Promise<PrebuiltKernel | undefined> {
  if (await buildsFromSource(cacheDir)) return undefined;
  const manifest = await readShipped(prebuiltKernelDir(sourceDir), prebuiltKernelSchema);
  return manifest?.inputs === digest ? manifest : undefined;
}
