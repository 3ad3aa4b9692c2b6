/** Models that a home has pulled for the built-in engine. */
import type { HomeModels } from '../../sandbox/contract/contents.ts';
import { pullModel, removeModels } from '../runtime/pulled-models/pull.ts';
import { isPathOfModel } from '../runtime/pulled-models/source.ts';
import { ModelStore } from '../runtime/pulled-models/store.ts';
import { type ContentsWorld, requireHostFiles } from './world.ts';

export function homeModels(world: ContentsWorld): HomeModels {
  return {
    list: () => new ModelStore(world.home.cacheDir).list(),

    async pull(source, options, work) {
      if (isPathOfModel(source)) requireHostFiles(work, source);
      return await pullModel({ ...world.context(work), cwd: process.cwd() }, source, options);
    },

    remove: (names) => removeModels(world.context(), names),
  };
}
