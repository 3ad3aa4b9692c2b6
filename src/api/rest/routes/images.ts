import { removedImages } from '../../../sandbox/contract/schema/contents.ts';
import { noteOutcome } from '../audit.ts';
import { type App, eventStream, failures } from '../route.ts';
import { imageList, imagePruneRequest, imagePullRequest, imageQuery, namesQuery } from '../schema/contents.ts';
import { type ContentsParts, streamWork, workText } from './long-work.ts';

const tags = ['images'];

export function addImageRoutes(app: App, parts: ContentsParts): void {
  app.get(
    '/images',
    {
      schema: {
        tags,
        operationId: 'listImages',
        summary: 'List the images, newest first',
        querystring: imageQuery,
        response: { 200: imageList, ...failures },
      },
    },
    async ({ query: { name } }) => ({
      images: name === undefined ? [...(await parts.contents.images.list())] : [await parts.contents.images.get(name)],
    }),
  );
  app.post(
    '/images/pull',
    {
      schema: {
        tags,
        operationId: 'pullImage',
        summary: 'Fetch an image and make its disk',
        description: workText('ImagePull'),
        body: imagePullRequest,
        response: { 200: eventStream('Progress, then the result.'), ...failures },
      },
    },
    async (request, reply) => {
      const { reference, when } = request.body;
      const { images } = parts.contents;
      await streamWork(request, reply, parts, reference, (work) => images.pull(reference, when, work));
    },
  );
  app.delete(
    '/images',
    {
      schema: {
        tags,
        operationId: 'removeImages',
        summary: 'Remove images, and the layers that no other image has',
        querystring: namesQuery('A reference, a digest, or a unique prefix of one.'),
        response: { 200: removedImages, ...failures },
      },
    },
    async (request) => {
      noteOutcome(request, { target: request.query.name.join(' ') });
      return await parts.contents.images.remove(request.query.name);
    },
  );
  app.post(
    '/images/prune',
    {
      schema: {
        tags,
        operationId: 'pruneImages',
        summary: 'Remove images without a name, and files of no image',
        body: imagePruneRequest,
        response: { 200: removedImages, ...failures },
      },
    },
    ({ body: { all } }) => parts.contents.images.prune(all),
  );
}
