/** Records control calls for the audit log: those that change something, and those that were refused. */
import type { IncomingMessage } from 'node:http';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { AuditSink } from '../tenants/audit.ts';
import type { Caller } from '../tenants/callers.ts';

const ID = /^[a-z0-9][a-z0-9._-]{0,62}$/;
/** Finds the id in the answer to a creation, where it is first or follows another field. */
const CREATED_ID = /"(?:id|sandboxID)":"([a-z0-9]{20})"/;
const ANSWER_CHARACTERS_READ = 2048;
const CREATED = 201;

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
  app.addHook('onRequest', async (request) => {
    // Determined now, since the key may be revoked meanwhile.
    noted.set(request, { caller: callerOf(request.raw), created: null });
  });
  app.addHook('onSend', async (request, reply, payload) => {
    const one = noted.get(request);
    if (one === undefined || reply.statusCode !== CREATED || typeof payload !== 'string') return;
    one.created = CREATED_ID.exec(payload.slice(0, ANSWER_CHARACTERS_READ))?.[1] ?? null;
  });
  app.addHook('onResponse', async (request, reply) => {
    const { caller = null, created = null } = noted.get(request) ?? {};
    const { statusCode: status, elapsedTime: ms } = reply;
    if (request.method === 'GET' && status < 400) return;
    // Records the pattern: the path itself may hold anything.
    const call = `${request.method} ${request.routeOptions.url ?? '(no route)'}`;
    audit.note({ caller, call, target: targetOf(request) ?? created, status, ms });
  });
}

function targetOf({ params }: FastifyRequest): string | null {
  const named = (params ?? {}) as Readonly<Record<string, unknown>>;
  const { id, sandboxID, snapshot, templateID } = named;
  const target = id ?? sandboxID ?? snapshot ?? templateID;
  return typeof target === 'string' && ID.test(target) ? target : null;
}
