/** Sandboxes: made, found, changed, paused, copied, removed. */

import type { ControlPlane, CreateRequest, SandboxInfo } from '../../sandbox/control.ts';
import { SandboxError } from '../../sandbox/errors.ts';
import { IdempotentRequests } from '../idempotency.ts';
import { type ApiParts, type App, clientGone, failures } from '../route.ts';
import { forkList, sandboxInfo, sandboxList, snapshotInfo } from '../schema/answers.ts';
import {
  createRequest,
  forkRequest,
  idempotencyHeaders,
  idParams,
  listQuery,
  pauseRequest,
  sandboxChange,
  snapshotRequest,
} from '../schema/requests.ts';

const tags = ['sandboxes'];

export function addSandboxRoutes(app: App, { control, clock }: ApiParts): void {
  addCreate(app, control, new IdempotentRequests<SandboxInfo>(clock));
  app.get(
    '/sandboxes',
    {
      schema: {
        tags,
        operationId: 'listSandboxes',
        summary: 'The sandboxes, newest first',
        description:
          'Of those that have ended (`status=ended`) the newest 256, also those of earlier daemons.',
        querystring: listQuery,
        response: { 200: sandboxList, ...failures },
      },
    },
    async ({ query }) => ({ sandboxes: [...(await control.list(query))] }),
  );
  app.get(
    '/sandboxes/:id',
    {
      schema: {
        tags,
        operationId: 'getSandbox',
        summary: 'One sandbox',
        description: 'One that has ended can be read for a while, with the reason of its end.',
        params: idParams,
        response: { 200: sandboxInfo, ...failures },
      },
    },
    ({ params }) => control.get(params.id),
  );
  app.patch(
    '/sandboxes/:id',
    {
      schema: {
        tags,
        operationId: 'updateSandbox',
        summary: 'Change its time limits, metadata, network and secrets',
        params: idParams,
        body: sandboxChange,
        response: { 200: sandboxInfo, ...failures },
      },
    },
    ({ params, body }) => control.update(params.id, body),
  );
  app.delete(
    '/sandboxes/:id',
    {
      schema: {
        tags,
        operationId: 'removeSandbox',
        summary: 'End it, in whatever state, and remove all of it',
        params: idParams,
        response: { 200: sandboxInfo, ...failures },
      },
    },
    ({ params }) => control.remove(params.id),
  );
  addStateRoutes(app, control);
}

function addCreate(
  app: App,
  control: ControlPlane,
  remembered: IdempotentRequests<SandboxInfo>,
): void {
  app.post(
    '/sandboxes',
    {
      schema: {
        tags,
        operationId: 'createSandbox',
        summary: 'Make a sandbox',
        description:
          'The answer comes when it is ready. If the client goes away before, nothing is made.',
        headers: idempotencyHeaders,
        body: createRequest,
        response: { 201: sandboxInfo, ...failures },
      },
    },
    async ({ body, headers }, reply) => {
      const gone = clientGone(reply);
      const create = (signal: AbortSignal) => createOrUndo(control, body, signal);
      const key = headers['idempotency-key'];
      const made =
        key === undefined
          ? await create(gone)
          : await remembered.run(key, JSON.stringify(body), gone, create);
      // What was made for an earlier request of the key may have changed since.
      const info = key === undefined ? made : await control.get(made.id);
      return await reply.status(201).send(info);
    },
  );
}

/** A sandbox that nobody waits for any more is removed, also when it was ready in that moment. */
async function createOrUndo(
  control: ControlPlane,
  request: CreateRequest,
  signal: AbortSignal,
): Promise<SandboxInfo> {
  const info = await control.create(request, signal);
  if (!signal.aborted) return info;
  await control.remove(info.id);
  throw new SandboxError('cancelled', 'create: cancelled', { cause: signal.reason });
}

function addStateRoutes(app: App, control: ControlPlane): void {
  app.post(
    '/sandboxes/:id/pause',
    {
      schema: {
        tags,
        operationId: 'pauseSandbox',
        summary: 'Stop it, and keep it',
        params: idParams,
        body: pauseRequest,
        response: { 200: sandboxInfo, ...failures },
      },
    },
    ({ params, body }) => control.pause(params.id, body.to),
  );
  app.post(
    '/sandboxes/:id/resume',
    {
      schema: {
        tags,
        operationId: 'resumeSandbox',
        summary: 'Let a paused one go on',
        description: 'Same id, files and processes. One that runs stays as it is.',
        params: idParams,
        response: { 200: sandboxInfo, ...failures },
      },
    },
    ({ params }, reply) => control.resume(params.id, clientGone(reply)),
  );
  app.post(
    '/sandboxes/:id/fork',
    {
      schema: {
        tags,
        operationId: 'forkSandbox',
        summary: 'Copies of it, each with an identity of its own',
        params: idParams,
        body: forkRequest,
        response: { 201: forkList, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const forks = [...(await control.fork(params.id, body))];
      return await reply.status(201).send({ forks });
    },
  );
  app.post(
    '/sandboxes/:id/snapshots',
    {
      schema: {
        tags,
        operationId: 'createSnapshot',
        summary: 'Keep its state, to start sandboxes from',
        description: 'It goes on; open connections to it end.',
        params: idParams,
        body: snapshotRequest,
        response: { 201: snapshotInfo, ...failures },
      },
    },
    async ({ params, body }, reply) =>
      await reply.status(201).send(await control.snapshot(params.id, body)),
  );
}
