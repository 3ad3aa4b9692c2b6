/**
 * Answers which artifacts still have to be built, so that a machine that is set up checks only the run packages, and
 * which packages the golden image has.
 */

import { guestInit } from './init.ts';
import { isKernelBuilt, kernelRecipe } from './kernel/kernel.ts';
import { modelRecipe } from './model.ts';
import { COMPILER_PACKAGES, HOST_PACKAGES, type HostPackage, KERNEL_PACKAGES } from './package-table.ts';
import { cachedDetails, isCached, type PrepareContext } from './prepare.ts';
import { describePackages, type GuestPackages } from './rootfs/debian-lock.ts';
import { rootfsRecipe } from './rootfs/rootfs.ts';

export interface AbsentArtifact {
  /** For people. */
  readonly name: string;
  /** Why its key is unknown, e.g. no kernel source; `null` if it is only not built yet. */
  readonly cause: unknown;
}

/** Artifacts that are not in the cache. Preparing verifies the others. */
export async function absentArtifacts(
  context: PrepareContext,
  options: { readonly withModel: boolean },
): Promise<readonly AbsentArtifact[]> {
  const { cacheDir, sourceDir } = context;
  const wanted: [string, Promise<{ readonly kind: string; readonly key: string }>][] = [
    ['kernel', kernelRecipe(context)],
    ['golden image', rootfsRecipe(context)],
  ];
  if (options.withModel) wanted.push(['model', modelRecipe(sourceDir)]);
  const found = await Promise.all(
    wanted.map(async ([name, recipe]) => {
      try {
        return (await isCached(cacheDir, await recipe)) ? [] : [{ name, cause: null }];
      } catch (cause) {
        return [{ name, cause }];
      }
    }),
  );
  return found.flat();
}

/** Host packages that a set-up needs: compilers only for a kernel or an init that is built here. @throws ImageError */
export async function neededPackages(
  context: Pick<PrepareContext, 'cacheDir' | 'sourceDir'>,
): Promise<readonly HostPackage[]> {
  const needed = new Map(HOST_PACKAGES.map((one) => [one.name, one]));
  const kernel = (await isKernelBuilt(context)) ? KERNEL_PACKAGES : [];
  const init = (await guestInit(context)).isBuilt ? COMPILER_PACKAGES : [];
  for (const one of [...kernel, ...init]) needed.set(one.name, one);
  return [...needed.values()];
}

export async function isPrepared(context: PrepareContext, options: { readonly withModel: boolean }): Promise<boolean> {
  return (await absentArtifacts(context, options)).length === 0;
}

/** The Debian packages of this checkout's golden image; undefined if it is not built. */
export async function guestPackages(context: PrepareContext): Promise<GuestPackages | undefined> {
  const details = await cachedDetails(context.cacheDir, await rootfsRecipe(context));
  return details === undefined ? undefined : describePackages(details);
}
