import { templateCreation } from '../../../sandbox/contract/schema/request.ts';
import { noteOutcome } from '../audit.ts';
import { type App, eventStream, failures } from '../route.ts';
import {
  namesQuery,
  removedTemplates,
  templateImportRequest,
  templateList,
  templatePullRequest,
} from '../schema/contents.ts';
import { type ContentsParts, streamWork, workText } from './long-work.ts';

const tags = ['templates'];

export function addTemplateRoutes(app: App, parts: ContentsParts): void {
  app.get(
    '/templates',
    {
      schema: {
        tags,
        operationId: 'listTemplates',
        summary: 'List the templates, named ones first',
        response: { 200: templateList, ...failures },
      },
    },
    async () => ({ templates: [...(await parts.contents.templates.list())] }),
  );
  app.post(
    '/templates',
    {
      schema: {
        tags,
        operationId: 'createTemplate',
        summary: 'Build a template, if it does not exist, and give it a name',
        description: workText('Template'),
        body: templateCreation,
        response: { 200: eventStream('Progress, then the result.'), ...failures },
      },
    },
    async (request, reply) => {
      const target = request.body.name ?? null;
      const { templates } = parts.contents;
      await streamWork(request, reply, parts, target, (work) => templates.create(request.body, work));
    },
  );
  app.delete(
    '/templates',
    {
      schema: {
        tags,
        operationId: 'removeTemplates',
        summary: 'Remove names with the files of their templates, or files by their keys',
        querystring: namesQuery('A name, a key, or a unique prefix of a key.'),
        response: { 200: removedTemplates, ...failures },
      },
    },
    async (request) => {
      noteOutcome(request, { target: request.query.name.join(' ') });
      return { templates: [...(await parts.contents.templates.remove(request.query.name))] };
    },
  );
  addTransferRoutes(app, parts);
}

function addTransferRoutes(app: App, parts: ContentsParts): void {
  app.post(
    '/templates/pull',
    {
      schema: {
        tags,
        operationId: 'pullTemplate',
        summary: 'Fetch a template from a registry, and give it a name',
        description: workText('ImportedTemplate'),
        body: templatePullRequest,
        response: { 200: eventStream('Progress, then the result.'), ...failures },
      },
    },
    async (request, reply) => {
      const { reference, name } = request.body;
      const { templates } = parts.contents;
      await streamWork(request, reply, parts, name ?? reference, (work) => templates.pull(reference, name, work));
    },
  );
  app.post(
    '/templates/import',
    {
      schema: {
        tags,
        operationId: 'importTemplate',
        summary: 'Give a name to a template in a directory of the host; only at the socket',
        description: workText('ImportedTemplate'),
        body: templateImportRequest,
        response: { 200: eventStream('Progress, then the result.'), ...failures },
      },
    },
    async (request, reply) => {
      const { dir, name } = request.body;
      const { templates } = parts.contents;
      await streamWork(request, reply, parts, name ?? null, (work) => templates.import(dir, name, work));
    },
  );
}
