/** The control plane's routes, not listening. */

import type { IncomingMessage } from 'node:http';
import Fastify, { type FastifyError, type FastifyReply, type FastifyRequest } from 'fastify';

import { describeError } from '../../../base/errors.ts';
import { addAudit } from '../../rest/audit.ts';
import { discardBody, takeBodies } from '../../rest/body.ts';
import { API_LIMITS } from '../../rest/limits.ts';
import { requestFault } from '../../rest/request-fault.ts';
import type { App } from '../../rest/route.ts';
import { RouteMethods } from '../../rest/route-methods.ts';
import type { Caller, Callers } from '../../tenants/callers.ts';
import { UPLOADS_PATH } from '../dispatch.ts';
import { E2bError, errorReply, INTERNAL } from '../errors.ts';
import { addEventRoutes, type WithEvents } from '../events/routes.ts';
import type { E2bParts, TemplateSource } from '../parts.ts';
import { Creations } from './creations.ts';
import { addListRoutes } from './lists.ts';
import { addLogRoutes } from './logs.ts';
import { addMetricsRoutes } from './metrics.ts';
import { addNetworkRoute } from './network-route.ts';
import { describeControl } from './openapi.ts';
import { addSandboxRoutes } from './sandboxes.ts';
import { failures } from './schema.ts';
import { addSnapshotRoutes } from './snapshots.ts';
import { addUnsupportedRoutes } from './unsupported.ts';
import { addVolumeFileRoutes } from './volume-files.ts';
import { addVolumeRoutes } from './volumes.ts';

/** Longer than any path, so that a route's schema refuses a long one. */
const PATH_PARAMETER_CHARACTERS_MAX = API_LIMITS.headerBytesMax;

/** Routes without a key: they are useless to strangers, or have an unguessable URL. */
const OPEN_ROUTES: readonly (string | undefined)[] = ['/health', `${UPLOADS_PATH}/:token`];
/** They check the token of the volume. */
const hasOwnToken = (url = ''): boolean => url.startsWith('/volumecontent/');

/** The templates that clients have built, and the routes of their builder. */
export interface ControlTemplates {
  readonly source: TemplateSource;
  add(routes: App): void;
}

const NO_TEMPLATES: ControlTemplates = {
  source: { localName: () => undefined, remove: async () => false },
  add: () => undefined,
};

/**
 * @param tenant whose requests it serves; `null` for the operator
 * @param isDescribed true to generate an OpenAPI document, `app.swagger()`
 */
export async function createControlApp(
  all: E2bParts & WithEvents,
  tenant: string | null,
  isDescribed = false,
  templates: ControlTemplates = NO_TEMPLATES,
): Promise<App> {
  const { callers } = all;
  const timeoutMaxMs = (): number => callers.askerOf(tenant)?.ceiling.timeoutMaxMs ?? Number.POSITIVE_INFINITY;
  const secondsMax = (): number => Math.floor(timeoutMaxMs() / 1000);
  const parts = { ...all, control: callers.planeOf(tenant), secondsMax };
  const { clock, log } = parts;
  const app = Fastify({
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: PATH_PARAMETER_CHARACTERS_MAX },
    // For a path that is not a URL, before any route.
    frameworkErrors: (error, request, reply) => void sendError(asE2b(error), request, reply),
  });
  takeBodies(app, '*', clock);
  addAudit(app, parts.audit, (request) => callerOf(request, parts.callers));
  app.addHook('onRequest', async (request) => {
    const { url } = request.routeOptions;
    if (OPEN_ROUTES.includes(url) || hasOwnToken(url)) return;
    const caller = callerOf(request.raw, parts.callers);
    if (caller !== null && caller.tenant === tenant) return;
    const isMissing = request.headers['x-api-key'] === undefined;
    const what = isMissing ? 'the header X-API-Key is missing' : 'the API key is not valid';
    throw new E2bError(401, what);
  });
  const methods = new RouteMethods();
  app.addHook('onRoute', (route) => {
    methods.add(route.url, [route.method].flat());
    // All routes have the same error answer.
    const { schema } = route;
    if (schema !== undefined) schema.response = { ...failures, ...(schema.response as object) };
  });
  app.addHook('onRequest', async (request, reply) => {
    if (!request.is404) return;
    const what = `${request.method} ${request.url.slice(0, 200)}`;
    const allowed = methods.of(request.url);
    if (allowed.length === 0) throw new E2bError(404, `no route ${what}`);
    void reply.header('allow', allowed.join(', '));
    throw new E2bError(405, `${what}: this path takes ${allowed.join(', ')}`);
  });
  app.addHook('preValidation', async (request) => {
    if (request.body === undefined && request.method !== 'GET') request.body = {};
  });
  app.setErrorHandler(async (error: FastifyError, request, reply) => {
    await discardBody(error, request, reply, clock);
    return sendError(asE2b(error), request, reply);
  });
  app.get('/health', async (_request, reply) => reply.status(204).send());
  if (isDescribed) await describeControl(app);
  const routes = app.withTypeProvider() as unknown as App;
  const creations = new Creations(parts, templates.source);
  addSandboxRoutes(routes, parts, creations);
  addListRoutes(routes, parts);
  addNetworkRoute(routes, parts, creations);
  addSnapshotRoutes(routes, parts, templates.source);
  addMetricsRoutes(routes, parts);
  addLogRoutes(routes, parts);
  if (parts.events !== undefined) addEventRoutes(routes, parts.events, tenant, clock);
  addVolumeRoutes(routes, parts);
  // Without a key, so the operator's routes answer for all tenants.
  if (tenant === null) addVolumeFileRoutes(routes, parts);
  addUnsupportedRoutes(routes);
  templates.add(routes);
  await app.ready();
  return app as unknown as App;

  function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    const known = errorReply(error);
    if (known === null) {
      log.error(`${request.method} ${request.routeOptions.url ?? '?'}`, { error: describeError(error) });
    }
    const { status, headers, body } = known ?? INTERNAL;
    return reply.status(status).headers(headers).type('application/json').send(body);
  }
}

/** `null` without a valid key. */
export function callerOf(
  { headers }: Pick<IncomingMessage, 'headers'>,
  callers: Pick<Callers, 'identify'>,
): Caller | null {
  const given = headers['x-api-key'];
  return typeof given === 'string' ? callers.identify(given) : null;
}

function asE2b(error: FastifyError): unknown {
  if (error instanceof E2bError) return error;
  const fault = requestFault(error, 'plain');
  return fault === null ? error : new E2bError(fault.status, fault.message);
}
