/** Tells whether anything has to be built, so that a machine that is set up checks only the run packages. */
import { kernelRecipe } from './kernel.ts';
import { modelRecipe } from './model.ts';
import { isCached, type PrepareContext } from './prepare.ts';
import { rootfsRecipe } from './rootfs.ts';

export interface AbsentArtifact {
  /** For people. */
  readonly name: string;
  /** Why its key is unknown, e.g. no kernel source; null: only not built yet. */
  readonly cause: unknown;
}

/** Artifacts that are not in the cache. Preparing verifies those that are. */
export async function absentArtifacts(
  context: PrepareContext,
  options: { readonly withModel: boolean },
): Promise<readonly AbsentArtifact[]> {
  const { cacheDir, sourceDir } = context;
  const wanted: [string, Promise<{ readonly kind: string; readonly key: string }>][] = [
    ['kernel', kernelRecipe(sourceDir)],
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

/** True when every artifact is in the cache. */
export async function isPrepared(
  context: PrepareContext,
  options: { readonly withModel: boolean },
): Promise<boolean> {
  return (await absentArtifacts(context, options)).length === 0;
}
