/** Routes that create, connect, get, end, time out, pause and fork sandboxes. */
import type { FastifyReply } from 'fastify';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { SandboxError, type SandboxErrorCode } from '../../../sandbox/contract/errors.ts';
import { IdempotentRequests } from '../../rest/idempotency.ts';
import { type App, clientGone } from '../../rest/route.ts';
import { E2bError, errorReply, INTERNAL } from '../errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';
import { type Creations, defaultSeconds } from './creations.ts';
import { requireHealthy } from './health.ts';
import { present } from './present.ts';
import {
  connectBody,
  createBody,
  createHeaders,
  failures,
  forkAnswer,
  forkBody,
  idParams,
  nothing,
  pauseBody,
  refreshBody,
  resumeBody,
  sandboxAnswer,
  sandboxDetail,
  timeoutBody,
  type Version,
} from './schema.ts';
import { detailView, sandboxView } from './view.ts';

const tags = ['sandboxes'];
const VERSIONS: readonly (readonly [string, Version])[] = [
  ['/v2/sandboxes', 'v2'],
  ['/sandboxes', 'v1'],
];

export function addSandboxRoutes(app: App, parts: E2bParts, creations: Creations): void {
  const { control } = parts;
  addCreate(app, parts, creations);
  addConnect(app, parts);
  addTimeouts(app, parts);
  addPause(app, parts);
  addFork(app, parts);
  app.get(
    '/sandboxes/:sandboxID',
    { schema: { tags, operationId: 'getSandbox', params: idParams, response: { 200: sandboxDetail, ...failures } } },
    async ({ params }) => detailView(await present(parts, params.sandboxID), parts),
  );
  app.delete(
    '/sandboxes/:sandboxID',
    { schema: { tags, operationId: 'killSandbox', params: idParams, response: { 204: nothing, ...failures } } },
    async ({ params }, reply) => {
      const { id } = await present(parts, params.sandboxID);
      await control.remove(id);
      return empty(reply);
    },
  );
}

function addCreate(app: App, parts: E2bParts, creations: Creations): void {
  const { control } = parts;
  const remembered = new IdempotentRequests<SandboxInfo>(parts.clock);
  for (const [path, version] of VERSIONS) {
    app.post(
      path,
      {
        schema: {
          tags,
          operationId: version === 'v2' ? 'createSandbox' : 'createSandboxV1',
          description:
            'Answers when the sandbox is ready, or after 50 s with 503 and `Retry-After` while its template is built.',
          headers: createHeaders,
          body: createBody,
          response: { 201: sandboxAnswer, ...failures },
        },
      },
      async ({ body, headers }, reply) => {
        const gone = clientGone(reply);
        const create = (signal: AbortSignal): Promise<SandboxInfo> => creations.create(body, version, signal);
        const key = headers['idempotency-key'];
        if (key === undefined) {
          return await reply.status(201).send(sandboxView(await create(gone), parts));
        }
        const request = JSON.stringify([version, body]);
        const { id } = await remembered.run(key, request, gone, create);
        // A sandbox of an earlier request with this key may have changed since.
        return await reply.status(201).send(sandboxView(await control.get(id), parts));
      },
    );
  }
}

function addConnect(app: App, parts: E2bParts): void {
  const { control } = parts;
  for (const [path, version] of VERSIONS) {
    app.post(
      `${path}/:sandboxID/connect`,
      {
        schema: {
          tags,
          operationId: version === 'v2' ? 'connectSandbox' : 'connectSandboxV1',
          description:
            'Resumes a paused sandbox; `memory: false` boots it from its disk. The timeout is never made shorter.',
          params: idParams,
          body: connectBody,
          response: { 200: sandboxAnswer, 201: sandboxAnswer, ...failures },
        },
      },
      async ({ params, body }, reply) => {
        const { timeout = defaultSeconds(parts, E2B_LIMITS.timeoutSeconds[version]), memory } = body;
        const before = await present(parts, params.sandboxID);
        const isRunning = before.status === 'running';
        if (isRunning) await extend(parts, before, timeout);
        else await resume(parts, before.id, { timeout, memory, signal: clientGone(reply) });
        const info = await control.get(before.id);
        return reply.status(isRunning ? 200 : 201).send(sandboxView(info, parts));
      },
    );
  }
  app.post(
    '/sandboxes/:sandboxID/resume',
    {
      schema: {
        tags,
        operationId: 'resumeSandbox',
        params: idParams,
        body: resumeBody,
        response: { 201: sandboxAnswer, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const { timeout = defaultSeconds(parts, E2B_LIMITS.timeoutSeconds.v1), memory, autoPause } = body;
      const { id, status } = await present(parts, params.sandboxID);
      if (status === 'running') throw new E2bError(409, `sandbox ${id} is running already`);
      await resume(parts, id, { timeout, memory, autoPause, signal: clientGone(reply) });
      return reply.status(201).send(sandboxView(await control.get(id), parts));
    },
  );
}

function addTimeouts(app: App, parts: E2bParts): void {
  const { control } = parts;
  app.post(
    '/sandboxes/:sandboxID/timeout',
    {
      schema: {
        tags,
        operationId: 'setSandboxTimeout',
        description: 'From now on. 0: its time is over now.',
        params: idParams,
        body: timeoutBody,
        response: { 204: nothing, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const info = await running(parts, params.sandboxID);
      // A timeout of zero would stay with the paused sandbox, and end it at its next resume.
      if (body.timeout === 0 && info.onTimeout !== 'kill') {
        await control.pause(info.id, info.onTimeout === 'pause' ? 'disk' : 'disk-only');
      } else await control.update(info.id, { timeoutMs: milliseconds(body.timeout) });
      return empty(reply);
    },
  );
  app.post(
    '/sandboxes/:sandboxID/refreshes',
    {
      schema: {
        tags,
        operationId: 'refreshSandbox',
        description: 'Extends the timeout, if it ends earlier.',
        params: idParams,
        body: refreshBody,
        response: { 204: nothing, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const info = await running(parts, params.sandboxID);
      await extend(parts, info, body.duration ?? defaultSeconds(parts, E2B_LIMITS.timeoutSeconds.v1));
      return empty(reply);
    },
  );
}

function addPause(app: App, parts: E2bParts): void {
  const { control } = parts;
  app.post(
    '/sandboxes/:sandboxID/pause',
    {
      schema: {
        tags,
        operationId: 'pauseSandbox',
        description: 'To disk; `memory: false` keeps only the files. 409: it is paused already.',
        params: idParams,
        body: pauseBody,
        response: { 204: nothing, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const { id, status, pausedTo } = await present(parts, params.sandboxID);
      if (status === 'paused' && pausedTo !== 'memory') {
        throw new E2bError(409, `sandbox ${id} is paused already`);
      }
      if (body.requireHealthyGuest === true) await requireHealthy(parts, id);
      await control.pause(id, body.memory === false ? 'disk-only' : 'disk');
      return empty(reply);
    },
  );
}

function addFork(app: App, parts: E2bParts): void {
  const { control } = parts;
  app.post(
    '/sandboxes/:sandboxID/fork',
    {
      schema: {
        tags,
        operationId: 'forkSandbox',
        description: 'Each copy has its own result.',
        params: idParams,
        body: forkBody,
        response: { 201: forkAnswer, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const { count = 1, timeout = defaultSeconds(parts, E2B_LIMITS.forkTimeoutSeconds) } = body;
      const { id } = await present(parts, params.sandboxID);
      const results = await control.fork(id, { count, timeoutMs: milliseconds(timeout) });
      const answers = results.map((result) =>
        result.ok ? { sandbox: sandboxView(result.sandbox, parts) } : { error: copyError(result) },
      );
      return reply.status(201).send(answers);
    },
  );
}

function copyError({ code, message }: { readonly code: string; readonly message: string }) {
  const error = new SandboxError(code as SandboxErrorCode, message);
  return { ...(errorReply(error) ?? INTERNAL).body, message };
}

export const empty = (reply: FastifyReply): FastifyReply => reply.status(204).send(null);

const milliseconds = (seconds: number): number => Math.max(1, seconds * 1000);

/** @throws E2bError 404; 409 if it is paused */
async function running(parts: E2bParts, id: string): Promise<SandboxInfo> {
  const info = await present(parts, id);
  if (info.status !== 'paused') return info;
  throw new E2bError(409, `sandbox ${id} is paused, so its time does not run`, {
    remedy: 'connect to it, which resumes it',
  });
}

/** Sets the timeout first: a nearly expired one would end the sandbox right after its resume. */
async function resume(
  { control }: E2bParts,
  id: string,
  how: {
    readonly timeout: number;
    readonly memory: boolean | undefined;
    readonly autoPause?: boolean | undefined;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { timeout, memory, autoPause, signal } = how;
  const { onTimeout } = await control.get(id);
  // The client says only whether the sandbox pauses, not how.
  const pauses = onTimeout === 'kill' ? 'pause' : onTimeout;
  await control.update(id, {
    timeoutMs: milliseconds(timeout),
    ...(autoPause === undefined ? {} : { onTimeout: autoPause ? pauses : 'kill' }),
  });
  await control.resume(id, { signal, ...(memory === false ? { reboot: true } : {}) });
}

/** Never shortens a timeout. */
async function extend({ control, clock }: E2bParts, { id, endsAtMs }: SandboxInfo, seconds: number): Promise<void> {
  const timeoutMs = milliseconds(seconds);
  if (endsAtMs === null || endsAtMs >= clock.wall() + timeoutMs) return;
  await control.update(id, { timeoutMs });
}
