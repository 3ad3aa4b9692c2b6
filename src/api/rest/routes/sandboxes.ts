/** Sandboxes: create, list, update, pause, resume, fork, snapshot, remove. */
import { ignore } from '../../../base/ignore.ts';
import type { ControlPlane, CreateRequest, SandboxInfo } from '../../../sandbox/contract/control.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { SESSION_ANNOTATION } from '../../../sandbox/contract/request.ts';
import { createRequest, forkRequest, sandboxChange } from '../../../sandbox/contract/schema/request.ts';
import { sandboxInfo } from '../../../sandbox/contract/schema/sandbox.ts';
import { IdempotentRequests } from '../idempotency.ts';
import { type ApiParts, type App, clientGone, failures, onUndelivered, sendList } from '../route.ts';
import { forkList, sandboxList, snapshotInfo } from '../schema/answers.ts';
import { createHeaders, idParams, listQuery, sessionHeaders } from '../schema/params.ts';
import { pauseRequest, resumeRequest, snapshotRequest } from '../schema/requests.ts';
import { removeAbandoned, type Session, type Sessions } from '../sessions.ts';

const tags = ['sandboxes'];

interface Parts extends ApiParts {
  readonly sessions: Sessions;
}

export function addSandboxRoutes(app: App, parts: Parts): void {
  const { control } = parts;
  addCreate(app, parts, new IdempotentRequests<SandboxInfo>(parts.clock));
  app.get(
    '/sandboxes',
    {
      schema: {
        tags,
        operationId: 'listSandboxes',
        summary: 'List sandboxes, newest first',
        description: '`status=ended` lists the newest 256 ended sandboxes, including those of earlier daemons.',
        querystring: listQuery,
        response: { 200: sandboxList, ...failures },
      },
    },
    async ({ query }, reply) => sendList(reply, sandboxInfo, await control.list(query), ['{"sandboxes":[', ']}']),
  );
  app.get(
    '/sandboxes/:id',
    {
      schema: {
        tags,
        operationId: 'getSandbox',
        summary: 'Get a sandbox',
        description: 'An ended sandbox stays readable for a while, with the cause of its end.',
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
        summary: 'Update timeouts, metadata, limits, memory, network and secrets',
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
        summary: 'End a sandbox in any state and remove it',
        params: idParams,
        response: { 200: sandboxInfo, ...failures },
      },
    },
    ({ params }) => control.remove(params.id),
  );
  addStateRoutes(app, control);
  addFork(app, parts);
}

function addCreate(app: App, { control, log, sessions }: Parts, remembered: IdempotentRequests<SandboxInfo>): void {
  app.post(
    '/sandboxes',
    {
      schema: {
        tags,
        operationId: 'createSandbox',
        summary: 'Create a sandbox',
        description: 'Answers when the sandbox is ready. If the client disconnects before, nothing is created.',
        headers: createHeaders,
        body: createRequest,
        response: { 201: sandboxInfo, ...failures },
      },
    },
    async ({ body, headers }, reply) => {
      const gone = clientGone(reply);
      const session = sessionOf(sessions, headers);
      const create = async (signal: AbortSignal) => {
        const until = session === null ? signal : AbortSignal.any([signal, session.closed]);
        const made = await createOrUndo(control, session === null ? body : { ...body, annotations: IN_SESSION }, until);
        session?.keep(made.id);
        return made;
      };
      const key = headers['idempotency-key'];
      if (key === undefined) {
        const made = await create(gone);
        onUndelivered(reply, gone, () => void removeAbandoned(control, log, made.id, UNDELIVERED));
        return await reply.status(201).send(made);
      }
      // Kept even if the answer is not delivered: the client asks again with its key. A session's sandbox ends with the
      // session, so it answers no request of another one.
      const scoped = `${headers['neurovisor-session'] ?? ''} ${key}`;
      const { id } = await remembered.run(scoped, JSON.stringify(body), gone, create);
      // A sandbox of an earlier request with this key may have changed since.
      const info = await control.get(id);
      return await reply.status(201).send(info);
    },
  );
}

/** Creates a sandbox. Removes it again if the client has disconnected, even if it became ready at that moment. */
async function createOrUndo(control: ControlPlane, request: CreateRequest, signal: AbortSignal): Promise<SandboxInfo> {
  const info = await control.create(request, signal);
  if (!signal.aborted) return info;
  await control.remove(info.id);
  throw new SandboxError('cancelled', 'create: cancelled', { cause: signal.reason });
}

const IN_SESSION = { [SESSION_ANNOTATION]: 'yes' };

const ignoreEnd = (error: unknown): void => ignore(error, 'it has ended already');

const UNDELIVERED = 'its client disconnected without the answer';

/** The session that a request names, if any. @throws ApiError `session_closed` */
function sessionOf(
  sessions: Sessions,
  { 'neurovisor-session': id }: { readonly 'neurovisor-session'?: string | undefined },
): Session | null {
  return id === undefined ? null : sessions.get(id);
}

function addFork(app: App, { control, log, sessions }: Parts): void {
  app.post(
    '/sandboxes/:id/fork',
    {
      schema: {
        tags,
        operationId: 'forkSandbox',
        summary: 'Fork a sandbox into copies, each with its own identity',
        description: 'If the client disconnects before the answer, the copies are removed.',
        params: idParams,
        headers: sessionHeaders,
        body: forkRequest,
        response: { 201: forkList, ...failures },
      },
    },
    async ({ params, body, headers }, reply) => {
      const gone = clientGone(reply);
      const session = sessionOf(sessions, headers);
      const forks = [...(await control.fork(params.id, body))];
      const ids = forks.flatMap((fork) => (fork.ok ? [fork.sandbox.id] : []));
      for (const id of ids) {
        session?.keep(id);
        if (session !== null) await control.update(id, { annotations: IN_SESSION }).catch(ignoreEnd);
      }
      onUndelivered(reply, gone, () => {
        for (const id of ids) void removeAbandoned(control, log, id, UNDELIVERED);
      });
      return await reply.status(201).send({ forks });
    },
  );
}

function addStateRoutes(app: App, control: ControlPlane): void {
  app.post(
    '/sandboxes/:id/pause',
    {
      schema: {
        tags,
        operationId: 'pauseSandbox',
        summary: 'Pause a sandbox',
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
        summary: 'Resume a paused sandbox',
        description: 'Id and files stay the same, and processes unless it boots. Does nothing if the sandbox runs.',
        params: idParams,
        body: resumeRequest,
        response: { 200: sandboxInfo, ...failures },
      },
    },
    ({ params, body }, reply) => control.resume(params.id, { ...body, signal: clientGone(reply) }),
  );
  app.post(
    '/sandboxes/:id/snapshots',
    {
      schema: {
        tags,
        operationId: 'createSnapshot',
        summary: 'Create a snapshot, to start sandboxes from',
        description: 'The sandbox continues; its open connections end.',
        params: idParams,
        body: snapshotRequest,
        response: { 201: snapshotInfo, ...failures },
      },
    },
    async ({ params, body }, reply) => await reply.status(201).send(await control.snapshot(params.id, body)),
  );
}
