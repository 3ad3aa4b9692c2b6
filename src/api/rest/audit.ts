/**
 * Records control calls for the audit log: those that change something, that read prompts and answers, and those that
 * were refused.
 */
import type { IncomingMessage } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { AuditSink } from '../tenants/audit.ts';
import type { Caller } from '../tenants/callers.ts';

const ID = /^[a-z0-9_][a-z0-9._-]{0,62}$/;
/** Finds the id in the answer to a creation, where it is first or follows another field: of a sandbox or of a key. */
const CREATED_ID = /"(?:id|sandboxID)":"([a-z0-9]{20}|[0-9a-f]{12})"/;
const ANSWER_CHARACTERS_READ = 2048;
const CREATED = 201;
const READ = 200;
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

/** A request whose caller is known: what its record will say beside what its answer shows. */
interface Noted {
  /** @param ms time until the answer */
  readonly note: (target: string | null, status: number, ms: number) => void;
  isRecorded: boolean;
  created: string | null;
  outcome: Outcome | null;
}

const noted = new WeakMap<IncomingMessage, Noted>();

/** Call before the answer ends: what the record says instead of what the request and its answer show. */
export function noteOutcome({ raw }: Pick<FastifyRequest, 'raw'>, { target, ...more }: Outcome): void {
  const one = noted.get(raw);
  if (one !== undefined) one.outcome = { target: isKept(target) ? target : null, ...more };
}

/** Records a call that only reads. Call once it can't be refused anymore. @param tenant whose log is read */
export function noteRead(request: FastifyRequest, tenant?: string): void {
  const target = [tenant, targetOf(request)].filter((name) => name != null).join(' ');
  noted.get(request.raw)?.note(target === '' ? null : target, READ, 0);
}

/** Call before adding any other hook of the routes. @param callerOf returns `null` without a valid key */
export function addAudit(
  app: Pick<FastifyInstance, 'addHook'>,
  audit: AuditSink | undefined,
  callerOf: (request: IncomingMessage) => Caller | null,
): void {
  if (audit === undefined) return;
  const record = (request: FastifyRequest, { statusCode, elapsedTime: ms }: FastifyReply): void => {
    const one = noted.get(request.raw);
    if (one === undefined || one.isRecorded) return;
    one.isRecorded = true;
    const { outcome, created } = one;
    const status = outcome?.status ?? statusCode;
    if (request.method === 'GET' && status < 400) return;
    one.note(outcome?.target ?? targetOf(request) ?? created, status, ms);
  };
  app.addHook('onRequest', async (request, reply) => {
    // Determined now, since the key may be revoked meanwhile.
    const caller = callerOf(request.raw);
    const one: Noted = {
      note: (target, status, ms) => audit.note({ caller, call: nameOf(request), target, status, ms }),
      isRecorded: false,
      created: null,
      outcome: null,
    };
    noted.set(request.raw, one);
    // Without a finished answer there is no `onResponse`.
    reply.raw.once('close', () => {
      if (one.outcome !== null) record(request, reply);
    });
  });
  app.addHook('onSend', async (request, reply, payload) => {
    const one = noted.get(request.raw);
    if (one === undefined || reply.statusCode !== CREATED || typeof payload !== 'string') return;
    one.created = CREATED_ID.exec(payload.slice(0, ANSWER_CHARACTERS_READ))?.[1] ?? null;
  });
  app.addHook('onResponse', async (request, reply) => record(request, reply));
}

/** The pattern: the path itself may hold anything. */
const nameOf = ({ method, routeOptions }: FastifyRequest): string => `${method} ${routeOptions.url ?? '(no route)'}`;

function targetOf({ params }: FastifyRequest): string | null {
  const named = (params ?? {}) as Readonly<Record<string, unknown>>;
  const { id, sandboxID, snapshot, templateID, key, tenant, seq } = named;
  const target = id ?? sandboxID ?? snapshot ?? templateID ?? key ?? tenant ?? seq;
  const text = typeof target === 'number' ? `${target}` : target;
  return typeof text === 'string' && ID.test(text) ? text : null;
}
