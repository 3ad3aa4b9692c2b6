/** Create, connect, list, get, end, time out and pause sandboxes. */
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { type App, clientGone } from '../../api/route.ts';
import type { CreateRequest, SandboxInfo } from '../../sandbox/control.ts';
import { E2bError } from '../errors.ts';
import { formatKept } from '../kept.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';
import { networkOptions } from './network.ts';
import {
  type CreateBody,
  connectBody,
  createBody,
  errorAnswer,
  idParams,
  listedSandbox,
  pauseBody,
  sandboxAnswer,
  sandboxDetail,
  timeoutBody,
} from './schema.ts';
import { sourceOf } from './templates.ts';
import { detailView, listedView, sandboxView } from './view.ts';

const failures = { default: errorAnswer } as const;
const nothing = z.null();

export function addSandboxRoutes(app: App, parts: E2bParts): void {
  const { control } = parts;

  for (const [path, version] of [
    ['/v2/sandboxes', 'v2'],
    ['/sandboxes', 'v1'],
  ] as const) {
    app.post(
      path,
      { schema: { body: createBody, response: { 201: sandboxAnswer, ...failures } } },
      async (request, reply) => {
        const wanted = await createRequest(request.body, version, parts);
        const info = await control.create(wanted, clientGone(reply));
        return reply.status(201).send(sandboxView(info, parts));
      },
    );
    app.post(
      `${path}/:id/connect`,
      {
        schema: {
          params: idParams,
          body: connectBody,
          response: { 200: sandboxAnswer, 201: sandboxAnswer, ...failures },
        },
      },
      async (request, reply) => {
        const { timeout } = request.body;
        const before = await present(parts, request.params.id);
        const isPaused = before.status === 'paused';
        if (isPaused) await control.resume(before.id, clientGone(reply));
        const seconds = timeout ?? (isPaused ? E2B_LIMITS.timeoutSeconds[version] : undefined);
        if (seconds !== undefined) await extend(parts, before, seconds * 1000, isPaused);
        const info = await control.get(before.id);
        return reply.status(isPaused ? 201 : 200).send(sandboxView(info, parts));
      },
    );
    app.get(
      path,
      { schema: { response: { 200: z.array(listedSandbox), ...failures } } },
      async () => (await control.list()).map(listedView),
    );
  }
  app.get(
    '/sandboxes/:id',
    { schema: { params: idParams, response: { 200: sandboxDetail, ...failures } } },
    async (request) => detailView(await present(parts, request.params.id), parts),
  );
  app.delete(
    '/sandboxes/:id',
    { schema: { params: idParams, response: { 204: nothing, ...failures } } },
    async (request, reply) => {
      await control.remove(request.params.id);
      return empty(reply);
    },
  );
  app.post(
    '/sandboxes/:id/timeout',
    {
      schema: { params: idParams, body: timeoutBody, response: { 204: nothing, ...failures } },
    },
    async (request, reply) => {
      const { id } = await present(parts, request.params.id);
      // Zero: now, by the sandbox's own lifetime.
      await control.update(id, { timeoutMs: Math.max(1, request.body.timeout * 1000) });
      return empty(reply);
    },
  );
  app.post(
    '/sandboxes/:id/pause',
    { schema: { params: idParams, body: pauseBody, response: { 204: nothing, ...failures } } },
    async (request, reply) => {
      const { id, status, pausedTo } = await present(parts, request.params.id);
      if (status === 'paused' && pausedTo === 'disk') {
        throw new E2bError(409, `sandbox ${id} is paused already`);
      }
      await control.pause(id, 'disk');
      return empty(reply);
    },
  );
}

const empty = (reply: FastifyReply): FastifyReply => reply.status(204).send(null);

/** @throws E2bError 404, also for one that has ended */
async function present({ control }: E2bParts, id: string): Promise<SandboxInfo> {
  const info = await control.get(id);
  if (info.status === 'ended') throw new E2bError(404, `there is no sandbox ${id}`);
  return info;
}

/** A timeout is never made shorter by a connection. */
async function extend(
  { control, clock }: E2bParts,
  { id, endsAtMs }: SandboxInfo,
  timeoutMs: number,
  wasPaused: boolean,
): Promise<void> {
  if (!wasPaused && (endsAtMs === null || endsAtMs >= clock.wall() + timeoutMs)) return;
  await control.update(id, { timeoutMs: Math.max(1, timeoutMs) });
}

async function createRequest(
  body: CreateBody,
  version: 'v1' | 'v2',
  { control }: E2bParts,
): Promise<CreateRequest> {
  if ((body.volumeMounts ?? []).length > 0) throw new E2bError(400, 'volumes are not supported');
  const { templateID, metadata, envVars, autoPause, autoResume } = body;
  const network = body.network ?? undefined;
  const internet = body.allow_internet_access ?? true;
  const seconds = body.timeout ?? E2B_LIMITS.timeoutSeconds[version];
  return {
    ...(await sourceOf(templateID, control)),
    timeoutMs: Math.max(1, seconds * 1000),
    onTimeout: autoPause === true ? 'pause' : 'kill',
    autoResume: autoResume?.enabled ?? false,
    env: envVars ?? {},
    metadata: metadata ?? {},
    network: networkOptions(network, internet),
    annotations: formatKept({
      template: templateID,
      allowInternetAccess: internet,
      ...(network === undefined ? {} : { network }),
    }),
  };
}
