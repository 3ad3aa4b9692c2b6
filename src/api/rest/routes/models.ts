import { noteOutcome } from '../audit.ts';
import { type App, eventStream, failures } from '../route.ts';
import { freedBytes, modelList, modelPullRequest, namesQuery } from '../schema/contents.ts';
import { type ContentsParts, streamWork, workText } from './long-work.ts';

const tags = ['models'];

export function addModelRoutes(app: App, parts: ContentsParts): void {
  app.get(
    '/models',
    {
      schema: {
        tags,
        operationId: 'listModels',
        summary: 'List the models that were pulled for the built-in engine',
        response: { 200: modelList, ...failures },
      },
    },
    async () => ({ models: [...(await parts.contents.models.list())] }),
  );
  app.post(
    '/models/pull',
    {
      schema: {
        tags,
        operationId: 'pullModel',
        summary: 'Fetch a model for the built-in engine',
        description: workText('ModelPull'),
        body: modelPullRequest,
        response: { 200: eventStream('Progress, then the result.'), ...failures },
      },
    },
    async (request, reply) => {
      const { source, ...options } = request.body;
      const target = options.name ?? source;
      const { models } = parts.contents;
      await streamWork(request, reply, parts, target, (work) => models.pull(source, options, work));
    },
  );
  app.delete(
    '/models',
    {
      schema: {
        tags,
        operationId: 'removeModels',
        summary: 'Remove pulled models',
        description: 'An engine that runs one keeps it until it ends.',
        querystring: namesQuery('Name of a model.'),
        response: { 200: freedBytes, ...failures },
      },
    },
    async (request) => {
      noteOutcome(request, { target: request.query.name.join(' ') });
      return { bytes: await parts.contents.models.remove(request.query.name) };
    },
  );
}
