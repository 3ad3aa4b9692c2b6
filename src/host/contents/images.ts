/** Images of a home. Each request has an `Images` of its own, whose files and locks they share. */
import type { HomeImages, LongWork } from '../../sandbox/contract/contents.ts';
import { type Images, openImages, parseReference } from '../runtime/images.ts';
import { type ContentsWorld, requireHostFiles } from './world.ts';

const WITHOUT_FILES: ReadonlySet<string> = new Set(['docker', 'stored']);

export function homeImages(world: ContentsWorld): HomeImages {
  const open = (work?: LongWork): Images => {
    const { progress, signal } = world.context(work);
    const { home, log, quotaBytes, runtime } = world;
    return openImages({ home, log, progress, signal, quotaBytes, runtime });
  };
  return {
    list: () => open().list(),
    get: (name) => open().find(name, process.cwd()),

    async pull(text, when, work) {
      const reference = parseReference(text, process.cwd());
      if (!WITHOUT_FILES.has(reference.transport)) requireHostFiles(work, reference.text);
      const { image, environment } = await open(work).pull(reference, when, world.context(work).signal);
      return { image, environment: { digest: environment.digest } };
    },

    remove: (names) => open().remove(names, process.cwd(), world.context().signal),
    prune: (all) => open().prune(all, world.context().signal),
  };
}
