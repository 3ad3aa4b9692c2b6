/** Images of a home. Each request has an `Images` of its own, whose files and locks they share. */
import type { HomeImages, LongWork } from '../../sandbox/contract/contents.ts';
import { buildImage } from '../builds/image-build.ts';
import { type Images, type ImagesContext, openImages, parseReference, type Reference } from '../runtime/images.ts';
import { type ContentsWorld, requireHostFiles } from './world.ts';

const WITHOUT_FILES: ReadonlySet<string> = new Set(['docker', 'stored']);

export function homeImages(world: ContentsWorld): HomeImages {
  const contextOf = (work?: LongWork): ImagesContext => {
    const { progress, signal } = world.context(work);
    const { home, log, quotaBytes, runtime } = world;
    return { home, log, progress, signal, quotaBytes, runtime };
  };
  const open = (work?: LongWork): Images => openImages(contextOf(work));
  const check = (work: LongWork, { transport, text }: Reference): void => {
    if (!WITHOUT_FILES.has(transport)) requireHostFiles(work, text);
  };
  return {
    list: () => open().list(),
    get: (name) => open().find(name, process.cwd()),

    async pull(text, when, work) {
      const reference = parseReference(text, process.cwd());
      check(work, reference);
      const { image, environment } = await open(work).pull(reference, when, world.context(work).signal);
      return { image, environment: { digest: environment.digest } };
    },

    async build(request, files, work) {
      if (request.context.kind === 'directory') requireHostFiles(work, request.context.dir);
      const context = contextOf(work);
      return await buildImage(context, openImages(context), request, files, work, (base) => check(work, base));
    },

    remove: (names) => open().remove(names, process.cwd(), world.context().signal),
    prune: (all) => open().prune(all, world.context().signal),
  };
}
