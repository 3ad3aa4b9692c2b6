/** Routes of the template builders of E2B's clients. */
import type { Readable } from 'node:stream';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { discardRest, withIdleLimit } from '../../rest/body.ts';
import type { App } from '../../rest/route.ts';
import { failures, nothing } from '../control/schema.ts';
import { ENVD_VERSION } from '../control/view.ts';
import { UPLOADS_PATH } from '../dispatch.ts';
import { E2bError } from '../errors.ts';
import type { E2bParts } from '../parts.ts';
import type { LogEntry } from './build-log.ts';
import {
  aliasAnswer,
  aliasParams,
  buildBody,
  buildParams,
  hashParams,
  listedTemplate,
  newTemplateAnswer,
  newTemplateBody,
  statusAnswer,
  statusQuery,
  tagList,
  tagsAnswer,
  tagsBody,
  templateDetail,
  templateParams,
  untagBody,
  updateAnswer,
  updateBody,
  uploadAnswer,
  uploadParams,
} from './schema.ts';
import type { StoredBuild, StoredTemplate } from './store.ts';
import type { BuildView, Templates } from './templates.ts';
import type { UploadUrls } from './uploads.ts';

const STATUS_ENTRIES = 100;
const tags = ['templates'];

export function addTemplateRoutes(app: App, templates: Templates): void {
  for (const path of ['/v3/templates', '/v2/templates'] as const) {
    app.post(
      path,
      {
        schema: {
          tags,
          operationId: path.startsWith('/v3') ? 'requestTemplate' : 'requestTemplateV2',
          body: newTemplateBody,
          response: { 202: newTemplateAnswer, ...failures },
        },
      },
      async (request, reply) => {
        const wanted = templates.request(request.body);
        const { templateId, build, name } = wanted;
        const names = { names: [name], tags: wanted.tags, aliases: [name] };
        return reply.status(202).send({ templateID: templateId, buildID: build, public: false, ...names });
      },
    );
  }
  app.get(
    '/templates/:id/files/:hash',
    {
      schema: {
        tags,
        operationId: 'getTemplateUpload',
        params: hashParams,
        response: { 201: uploadAnswer, ...failures },
      },
    },
    async (request, reply) => {
      const { id, hash } = request.params;
      const { isPresent, token } = await templates.upload(id, hash);
      // Uses the name by which this client has reached us.
      const url = `${request.protocol}://${request.host}${UPLOADS_PATH}/${token}`;
      return reply.status(201).send({ present: isPresent, url, headers: {} });
    },
  );
  app.post(
    '/v2/templates/:id/builds/:build',
    { schema: { tags, operationId: 'startTemplateBuild', params: buildParams, body: buildBody, response: failures } },
    async (request, reply) => {
      const { id, build } = request.params;
      await templates.start(id, build, request.body);
      return accepted(reply);
    },
  );
  app.get(
    '/templates/:id/builds/:build/status',
    {
      schema: {
        tags,
        operationId: 'getTemplateBuildStatus',
        params: buildParams,
        querystring: statusQuery,
        response: { 200: statusAnswer, ...failures },
      },
    },
    async (request) => {
      const { id, build } = request.params;
      const { logsOffset = 0, limit = STATUS_ENTRIES } = request.query;
      return statusView(templates.status(id, build, logsOffset, limit));
    },
  );
  addNameRoutes(app, templates);
  addListRoutes(app, templates);
}

/** The URL itself is the permission: clients send no key there, and any content type. */
export function addUploadRoute(app: App, { clock }: Pick<E2bParts, 'clock'>, urls: UploadUrls): void {
  void app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', async (_request: unknown, body: Readable) => body);
    (scope as unknown as App).put(
      `${UPLOADS_PATH}/:token`,
      { schema: { hide: true, params: uploadParams, response: { 200: nothing, ...failures } } },
      async (request, reply) => {
        const length = request.headers['content-length'];
        const announced = length === undefined ? undefined : Number(length);
        try {
          await urls.receive(request.params.token, withIdleLimit(request.raw, clock), announced);
        } catch (error) {
          await discardRest(request.raw, clock);
          throw error;
        }
        return reply.status(200).header('content-length', '0').send(null);
      },
    );
  });
}

function addNameRoutes(app: App, templates: Templates): void {
  app.get(
    '/templates/aliases/:alias',
    {
      schema: {
        tags,
        operationId: 'getTemplateAlias',
        params: aliasParams,
        response: { 200: aliasAnswer, ...failures },
      },
    },
    async (request) => {
      const { alias } = request.params;
      const found = await templates.exists(alias);
      if (found === null) throw missing(alias);
      return { templateID: found.templateId, public: found.isPublic };
    },
  );
  app.post(
    '/templates/tags',
    { schema: { tags, operationId: 'assignTemplateTags', body: tagsBody, response: { 201: tagsAnswer, ...failures } } },
    async (request, reply) => {
      const { body } = request;
      const buildID = await templates.tag(body.target, body.tags);
      return reply.status(201).send({ tags: body.tags, buildID });
    },
  );
  app.delete(
    '/templates/tags',
    { schema: { tags, operationId: 'removeTemplateTags', body: untagBody, response: { 204: nothing, ...failures } } },
    async (request, reply) => {
      await templates.untag(request.body.name, request.body.tags);
      return reply.status(204).send(null);
    },
  );
  app.get(
    '/templates/:id/tags',
    {
      schema: {
        tags,
        operationId: 'listTemplateTags',
        params: templateParams,
        response: { 200: tagList, ...failures },
      },
    },
    async (request) =>
      find(templates, request.params.id).tags.map(({ tag, buildId, createdAtMs }) => ({
        tag,
        buildID: buildId,
        createdAt: time(createdAtMs),
      })),
  );
}

function addListRoutes(app: App, templates: Templates): void {
  app.get(
    '/templates',
    { schema: { tags, operationId: 'listTemplates', response: { 200: z.array(listedTemplate), ...failures } } },
    async () => templates.all.map(listedView),
  );
  app.get(
    '/templates/:id',
    {
      schema: {
        tags,
        operationId: 'getTemplate',
        params: templateParams,
        response: { 200: templateDetail, ...failures },
      },
    },
    async (request) => {
      const template = find(templates, request.params.id);
      return { ...commonView(template), builds: template.builds.map(buildView) };
    },
  );
  for (const path of ['/templates/:id', '/v2/templates/:id'] as const) {
    app.patch(
      path,
      {
        schema: {
          tags,
          operationId: path.startsWith('/v2') ? 'updateTemplateV2' : 'updateTemplate',
          params: templateParams,
          body: updateBody,
          response: { 200: updateAnswer, ...failures },
        },
      },
      async (request) => {
        const { id } = request.params;
        const { name } = await templates.update(id, request.body.public ?? null);
        return { names: [name] };
      },
    );
  }
}

/** @throws E2bError 404 */
function find(templates: Templates, text: string): StoredTemplate {
  const found = templates.find(text);
  if (found === undefined) throw missing(text);
  return found;
}

const missing = (text: string): E2bError => new E2bError(404, `there is no template "${text.slice(0, 80)}"`);

/** Without a body: clients accept nothing else as success. */
const accepted = (reply: FastifyReply): FastifyReply => {
  const send = reply.status(202).header('content-length', '0') as FastifyReply;
  return send.send();
};

function statusView(view: BuildView): z.input<typeof statusAnswer> {
  const { templateId, buildId, status, entries, reason } = view;
  return {
    templateID: templateId,
    buildID: buildId,
    status,
    logs: entries.map(({ message }) => message),
    logEntries: entries.map(entryView),
    ...(reason === null
      ? {}
      : {
          reason: {
            message: reason.message,
            ...(reason.step === null ? {} : { step: reason.step }),
            logEntries: reason.entries.map(entryView),
          },
        }),
  };
}

const entryView = ({ timestampMs, level, message, step }: LogEntry) => ({
  timestamp: time(timestampMs),
  level,
  message,
  ...(step === null ? {} : { step }),
});

function commonView(template: StoredTemplate) {
  const { id, name, isPublic, createdAtMs, updatedAtMs } = template;
  return {
    templateID: id,
    public: isPublic,
    aliases: [name],
    names: [name],
    createdAt: time(createdAtMs),
    updatedAt: time(updatedAtMs),
    lastSpawnedAt: null,
    spawnCount: 0,
  };
}

function listedView(template: StoredTemplate): z.input<typeof listedTemplate> {
  const last = template.builds.at(-1);
  return {
    ...commonView(template),
    ...sizeView(last),
    buildID: last?.id ?? '',
    buildCount: template.builds.length,
    buildStatus: 'ready',
    createdBy: null,
    envdVersion: ENVD_VERSION,
  };
}

const buildView = (build: StoredBuild) => ({
  ...sizeView(build),
  buildID: build.id,
  status: 'ready' as const,
  createdAt: time(build.createdAtMs),
  updatedAt: time(build.finishedAtMs),
  finishedAt: time(build.finishedAtMs),
  envdVersion: ENVD_VERSION,
});

const sizeView = (build: StoredBuild | undefined) => ({
  cpuCount: build?.size.cpus ?? 0,
  memoryMB: build?.size.memoryMib ?? 0,
  diskSizeMB: build?.size.diskMib ?? 0,
});

const time = (ms: number): string => new Date(ms).toISOString();
