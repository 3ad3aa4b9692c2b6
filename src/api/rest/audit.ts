/** Records control calls for the audit log: those that change something, and those that were refused. */
import type { IncomingMessage } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { AuditSink } from '../tenants/audit.ts';
import type { Caller } from '../tenants/callers.ts';

const ID = /^[a-z0-9][a-z0-9._-]{0,62}$/;
/** Finds the id in the answer to a creation, where it is first or follows another field. */
const CREATED_ID = /"(?:id|sandboxID)":"([a-z0-9]{20})"/;
const ANSWER_CHARACTERS_READ = 2048;
const CREATED = 201;
/** Names of images, templates and models; anything else is not kept. */
const NAMES = /^(?:[\w.:/-]+(?:@sha256:[0-9a-f]{64})?(?: |$))+$/;
const NAMES_CHARACTERS_MAX = 256;

export interface Outcome {
  readonly target: string | null;
  /** Of a stream, whose status line came before the outcome. Default: that of the answer. */
  readonly status?: number;
}

const isKept = (target: string | null): boolean =>
  target !== null && target.length <= NAMES_CHARACTERS_MAX && NAMES.test(target);

const outcomes = new WeakMap<IncomingMessage, Outcome>();

/** Call before the answer ends: what the record says instead of what the request and its answer show. */
export function noteOutcome({ raw }: Pick<FastifyRequest, 'raw'>, { target, ...more }: Outcome): void {
  outcomes.set(raw, { target: isKept(target) ? target : null, ...more });
}

interface Noted {
  readonly caller: Caller | null;
  created: string | null;
}

/** Call before adding any other hook of the routes. @param callerOf returns `null` without a valid key */
export function addAudit(
  app: Pick<FastifyInstance, 'addHook'>,
  audit: AuditSink | undefined,
  callerOf: (request: IncomingMessage) => Caller | null,
): void {
  if (audit === undefined) return;
  const noted = new WeakMap<FastifyRequest, Noted>();
  const record = (request: FastifyRequest, reply: FastifyReply): void => {
    const one = noted.get(request);
    if (one === undefined) return;
    noted.delete(request);
    const { caller, created } = one;
    const { statusCode, elapsedTime: ms } = reply;
    const outcome = outcomes.get(request.raw);
    const status = outcome?.status ?? statusCode;
    if (request.method === 'GET' && status < 400) return;
    // Records the pattern: the path itself may hold anything.
    const call = `${request.method} ${request.routeOptions.url ?? '(no route)'}`;
    audit.note({ caller, call, target: outcome?.target ?? targetOf(request) ?? created, status, ms });
  };
  app.addHook('onRequest', async (request, reply) => {
    // Determined now, since the key may be revoked meanwhile.
    noted.set(request, { caller: callerOf(request.raw), created: null });
    // Without a finished answer there is no `onResponse`.
    reply.raw.once('close', () => {
      if (outcomes.has(request.raw)) record(request, reply);
    });
  });
  app.addHook('onSend', async (request, reply, payload) => {
    const one = noted.get(request);
    if (one === undefined || reply.statusCode !== CREATED || typeof payload !== 'string') return;
    one.created = CREATED_ID.exec(payload.slice(0, ANSWER_CHARACTERS_READ))?.[1] ?? null;
  });
  app.addHook('onResponse', async (request, reply) => record(request, reply));
}

function targetOf({ params }: FastifyRequest): string | null {
  const named = (params ?? {}) as Readonly<Record<string, unknown>>;
  const { id, sandboxID, snapshot, templateID } = named;
  const target = id ?? sandboxID ?? snapshot ?? templateID;
  return typeof target === 'string' && ID.test(target) ? target : null;
}
