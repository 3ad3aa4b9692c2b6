/** Is there anything to build? Asked at each start, so that a machine that is set up checks only what running needs. */
import { ignore } from '../base/ignore.ts';
import { kernelRecipe } from './kernel.ts';
import { modelRecipe } from './model.ts';
import { isCached, type PrepareContext } from './prepare.ts';
import { rootfsRecipe } from './rootfs.ts';

/** True when every artifact is in the cache; each is still verified when it is prepared. */
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
    ignore(error, 'an input is missing: whoever prepares says so');
    return false;
  }
}
