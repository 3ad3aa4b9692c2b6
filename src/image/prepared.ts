/** Tells whether anything has to be built, so that a machine that is set up checks only the run packages. */
import { ignore } from '../base/ignore.ts';
import { kernelRecipe } from './kernel.ts';
import { modelRecipe } from './model.ts';
import { isCached, type PrepareContext } from './prepare.ts';
import { rootfsRecipe } from './rootfs.ts';

/** True when every artifact is in the cache. Preparing still verifies each. */
export async function isPrepared(
  context: PrepareContext,
  options: { readonly withModel: boolean },
): Promise<boolean> {
  const { cacheDir, sourceDir } = context;
  try {
    const recipes = await Promise.all([
      kernelRecipe(sourceDir),
      rootfsRecipe(context),
      ...(options.withModel ? [modelRecipe(sourceDir)] : []),
    ]);
    const cached = await Promise.all(recipes.map((recipe) => isCached(cacheDir, recipe)));
    return !cached.includes(false);
  } catch (error) {
    ignore(error, 'an input is missing: preparing reports it');
    return false;
  }
}
