/**
 * The REST server of the control plane. It holds no state of its own: each route calls one method of `ControlPlane`,
 * validates input and output with `schema/`, and maps errors to statuses.
 *
 *     unix socket (0600) ──┐            ┌─ hooks: caller (auth), ids and bodies (schema)
 *     port ────────────────┼─ listener ─┼─ routes/* ────────► ControlPlane
 *       + API key          │            └─ errors: code → status
 *                          └─ upgrade ── tunnel ───────────► ControlPlane.openOperation, openPort
 *
 * All paths except `/metrics` begin with `/v1`. A request whose client disconnects is canceled: a sandbox being created
 * is removed, a running program is killed.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { Server as TlsServer } from 'node:tls';
import Fastify, { type FastifyError, type FastifyReply, type FastifyRequest } from 'fastify';

import { type Clock, systemClock } from '../../base/clock.ts';
import { CodedError, describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { gauge, MetricRegistry } from '../../base/metrics.ts';
import { passiveTracer, type Tracer } from '../../base/trace/trace.ts';
import { idOfSandbox } from '../../sandbox/contract/checks.ts';
import type { HomeContents } from '../../sandbox/contract/contents.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { SandboxLoads } from '../../sandbox/plane/load.ts';
import type { Administration } from '../tenants/administration.ts';
import type { AuditSink } from '../tenants/audit.ts';
import { type Caller, type Callers, operatorOnly } from '../tenants/callers.ts';
import { PerTenant } from '../tenants/per-tenant.ts';
import { AnswerMemory } from './answer-buffer.ts';
import { ApiMetrics } from './api-metrics.ts';
import { addAudit } from './audit.ts';
import { callerOf } from './auth.ts';
import { discardBody, takeBodies } from './body.ts';
import { ApiError, type ApiErrorCode, errorAnswer, statusOf } from './errors.ts';
import { KeyWatch } from './key-watch.ts';
import { API_LIMITS } from './limits.ts';
import {
  type Certificate,
  createListener,
  type Handlers,
  type ListenAt,
  listenAt,
  portOf,
  TLS_OPTIONS,
} from './listener.ts';
import { requestFault } from './request-fault.ts';
import { type ApiParts, type App, noteDelivered } from './route.ts';
import { RouteMethods } from './route-methods.ts';
import { addAdministrationRoutes } from './routes/administration.ts';
import { addAuditRoutes } from './routes/audit.ts';
import { addContentsRoutes } from './routes/contents.ts';
import { addEventRoutes, eventStreamSlots } from './routes/events.ts';
import { addFileRoutes } from './routes/files.ts';
import { addGuestRoutes } from './routes/guest.ts';
import { addHostRoutes, addPoolRoutes, addSnapshotRoutes } from './routes/host.ts';
import { addLoadRoute, addMetricsRoute, METRICS_PATH } from './routes/metrics.ts';
import { addSandboxRoutes } from './routes/sandboxes.ts';
import { addSecretRoutes } from './routes/secrets.ts';
import { addSessionRoute } from './routes/sessions.ts';
import { addVolumeRoutes } from './routes/volumes.ts';
import { describeApi } from './schema/openapi.ts';
import { Sessions, sessionSlots } from './sessions.ts';
import type { TenantSlots } from './slots.ts';
import { addTracing } from './tracing.ts';
import { addTunnelRoutes, isTunnelProtocol, Tunnels } from './tunnel.ts';

export interface ApiOptions {
  readonly control: ControlPlane;
  readonly log: Log;
  /** Required to listen at a port. */
  readonly apiKey?: string | undefined;
  /** Maps keys to their owners, and to what they may see. Default: only the operator's API key. */
  readonly callers?: Callers | undefined;
  /** Keys, tenants, settings, audit logs. Default: no routes for them. */
  readonly administration?: Administration | undefined;
  /** Receives a record of each control call. Default: no records. */
  readonly audit?: AuditSink | undefined;
  /** Images, templates and models, for the operator. Default: no routes for them. */
  readonly contents?: HomeContents | undefined;
  readonly clock?: Clock;
  /** Metrics of the process, to which the server adds its own. Default: only its own. */
  readonly metrics?: MetricRegistry;
  readonly openMetrics?: boolean;
  /** Default: no tracing. */
  readonly tracer?: Tracer;
  /** Default: no loads. */
  readonly loads?: () => SandboxLoads;
  /** Another interface on the same ports, but not on sockets. Checks its callers itself. */
  readonly beside?: OtherInterface | undefined;
  /** Names of this machine besides those of loopback, without ports, for the check of `Host`. */
  readonly names?: readonly string[];
}

export interface OtherInterface {
  takes(request: IncomingMessage): boolean;
  request(request: IncomingMessage, response: ServerResponse): void;
  /** Whether it takes over the connection of a request that asks to upgrade. */
  takesUpgrade(request: IncomingMessage): boolean;
  upgrade(request: IncomingMessage, client: Duplex, head: Buffer): void;
}

export interface ApiServer extends AsyncDisposable {
  /** For tests: requests without a connection (`app.inject`), which need the key as on a port. */
  readonly app: App;
  /**
   * Call once per socket or port. @returns the port; `null` for a socket
   * @throws ApiError `already_running`, `listen_failed`
   */
  listen(at: ListenAt): Promise<number | null>;
  /** Sets the certificate for new handshakes at all ports with TLS. @throws Error if it is invalid */
  setCertificate(certificate: Certificate): void;
  /** Accepts no new connections; requests and streams under way go on. */
  stopAccepting(): void;
  /** Ends all connections, event streams and tunnels. The control plane stays open. */
  close(): Promise<void>;
}

export async function createApiServer(options: ApiOptions): Promise<ApiServer> {
  const { control, log, apiKey = null, clock = systemClock } = options;
  const { metrics = new MetricRegistry(), loads = noLoads } = options;
  const { tracer = passiveTracer() } = options;
  const openPaths = options.openMetrics === true ? [METRICS_PATH] : [];
  const localUsers = new WeakSet<Socket>();
  const callers = options.callers ?? operatorOnly(control, apiKey);
  const identify = (request: IncomingMessage): Caller | ApiError => {
    const { headers, url = '', socket } = request;
    const isLocalUser = localUsers.has(socket);
    const asking = { headers, url, isLocalUser, localAddress: socket.localAddress };
    return callerOf(asking, callers, { openPaths, names: options.names ?? [] });
  };
  const counted = new ApiMetrics();
  const memory = new AnswerMemory();
  const isLocal = ({ socket }: IncomingMessage): boolean => localUsers.has(socket);
  const slots = { streams: eventStreamSlots(), sessions: sessionSlots() };
  const parts = { log, clock, counted, metrics, tracer, memory, isLocal, slots };
  // Each tenant has its own sessions, idempotency keys, and slots of programs and listings.
  const apps = new PerTenant((tenant) => {
    const own = callers.planeOf(tenant);
    const shown = tenant === null ? async () => loads() : () => ownLoads(own, loads());
    const { audit, administration, contents } = options;
    return createApp({ ...parts, control: own, loads: shown, tenant, audit, administration, contents }, identify);
  });
  const app = await apps.of(null);
  const tunnels = new Tunnels(log, tracer, {
    now: () => clock.now(),
    answered: (ms) => counted.operationAnswered(ms / 1000),
  });
  metrics.add(
    ...counted.list(),
    gauge('neurovisor_api_tunnels', 'Upgraded connections of clients.', () => tunnels.open),
  );
  const keyWatch = new KeyWatch(callers);
  const servers: Server[] = [];
  const setCertificate = (certificate: Certificate): void => {
    for (const server of servers) {
      if (server instanceof TlsServer) server.setSecureContext({ ...TLS_OPTIONS, ...certificate });
    }
  };

  const { audit } = options;
  const requests = { log, clock, callers, audit, identify, app, apps, tunnels, keyWatch };
  const listen = async (at: ListenAt): Promise<number | null> => {
    if ('port' in at && (apiKey === null || apiKey === '')) {
      throw new ApiError('listen_failed', 'a port is open to all users of this machine', { remedy: 'set an API key' });
    }
    const handlers = handlersFor('port' in at ? options.beside : undefined, requests);
    const server = createListener(handlers, 'port' in at ? at.certificate : undefined);
    if ('socketPath' in at) server.on('connection', (socket) => localUsers.add(socket));
    await listenAt(server, at);
    server.on('error', (error) => log.error('REST listener', { error: error.message }));
    servers.push(server);
    return portOf(server);
  };
  const closed = new Map<Server, Promise<void>>();
  const stopAccepting = (): void => {
    for (const server of servers) {
      if (closed.has(server)) continue;
      closed.set(server, new Promise((resolve) => server.close(() => resolve())));
    }
  };
  const close = async (): Promise<void> => {
    stopAccepting();
    for (const server of servers) server.closeAllConnections();
    tunnels.close();
    keyWatch.close();
    await Promise.all(closed.values());
    for (const one of await apps.all()) await one.close();
  };
  return { app, listen, setCertificate, stopAccepting, close, [Symbol.asyncDispose]: close };
}

/** What requests of all sockets and ports are answered with. */
interface RequestParts {
  readonly log: Log;
  readonly clock: Clock;
  readonly callers: Callers;
  readonly audit: AuditSink | undefined;
  readonly identify: (request: IncomingMessage) => Caller | ApiError;
  /** The operator's routes. */
  readonly app: App;
  readonly apps: PerTenant<App>;
  readonly tunnels: Tunnels;
  readonly keyWatch: KeyWatch;
}

/** @param beside the interface that gets the requests that it takes */
function handlersFor(
  beside: OtherInterface | undefined,
  { log, clock, callers, audit, identify, app, apps, tunnels, keyWatch }: RequestParts,
): Handlers {
  const otherFor = (request: IncomingMessage): OtherInterface | undefined =>
    beside?.takes(request) === true ? beside : undefined;
  const route = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const caller = identify(request);
    if (!(caller instanceof ApiError)) keyWatch.follow(caller, response);
    // The operator's routes answer with the refusal.
    const own = caller instanceof ApiError ? app : await apps.of(caller.tenant);
    own.routing(request, response);
  };
  return {
    request: (request, response) => {
      const other = otherFor(request);
      if (other !== undefined) {
        other.request(request, response);
        return;
      }
      route(request, response).catch((error: unknown) => {
        log.error('REST request', { error: describeError(error) });
        response.destroy();
      });
    },
    takesUpgrade: (request) =>
      otherFor(request)?.takesUpgrade(request) ?? isTunnelProtocol(request.headers.upgrade?.toLowerCase()),
    upgrade: (request, client, head) => {
      const other = otherFor(request);
      if (other !== undefined) {
        other.upgrade(request, client, head);
        return;
      }
      noteDelivered(client);
      const caller = identify(request);
      const from = caller instanceof ApiError ? caller : { ...caller, plane: callers.planeOf(caller.tenant) };
      if (!(caller instanceof ApiError)) keyWatch.follow(caller, client);
      const startedMs = clock.now();
      void tunnels
        .accept(request, client, head, from)
        .then(({ status, target }) =>
          audit?.note({
            caller: caller instanceof ApiError ? null : caller,
            call: 'UPGRADE /v1/sandboxes/:id',
            target,
            status,
            ms: clock.now() - startedMs,
          }),
        );
    },
  };
}

const SANDBOX_PATH = '/v1/sandboxes/:id';

/** Of a part of the path, such as an id. */
const PARAMETER_CHARACTERS_MAX = 64;

interface OperatorParts extends ApiParts {
  /** The tenant whose requests it serves; `null` for the operator. */
  readonly tenant: string | null;
  readonly administration: Administration | undefined;
  readonly contents: HomeContents | undefined;
  readonly isLocal: (request: IncomingMessage) => boolean;
}

type AppParts = OperatorParts & {
  readonly counted: ApiMetrics;
  readonly metrics: MetricRegistry;
  readonly loads: () => Promise<SandboxLoads>;
  readonly tracer: Tracer;
  readonly memory: AnswerMemory;
  /** Of all tenants. */
  readonly slots: { readonly streams: TenantSlots; readonly sessions: TenantSlots };
  readonly audit: AuditSink | undefined;
};

async function createApp(parts: AppParts, identify: (request: IncomingMessage) => Caller | ApiError): Promise<App> {
  const { clock, log } = parts;
  const app = Fastify({
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: PARAMETER_CHARACTERS_MAX },
    // For a path that no route can take, no hook runs.
    frameworkErrors(_error, request, reply) {
      const caller = identify(request.raw);
      const message = `the path is not valid percent-encoding, or a part of it has more than ${PARAMETER_CHARACTERS_MAX} characters`;
      const fault = caller instanceof ApiError ? caller : new ApiError('request_invalid', message);
      void sendError(fault, request as FastifyRequest, reply as FastifyReply, log);
    },
  });
  takeBodies(app, 'application/json', clock);
  const nameOf = (request: IncomingMessage): Caller | null => {
    const caller = identify(request);
    return caller instanceof ApiError ? null : caller;
  };
  addAudit(app, parts.audit, nameOf);
  app.addHook('onRequest', async (request) => {
    noteDelivered(request.raw.socket);
    const caller = identify(request.raw);
    if (caller instanceof ApiError) throw caller;
    // Never happens, since requests are dispatched by their caller.
    if (caller.tenant !== parts.tenant) throw new ApiError('unauthorized', 'the API key is wrong');
  });
  addTracing(app, parts.tracer);
  const methods = new RouteMethods();
  app.addHook('onRoute', ({ method, url }) => methods.add(url, [method].flat()));
  app.addHook('onRequest', async (request, reply) => {
    if (!request.is404) return;
    const what = `${request.method} ${request.url.slice(0, 200)}`;
    const allowed = methods.of(request.url);
    if (allowed.length === 0) throw new ApiError('route_not_found', `no route ${what}`);
    void reply.header('allow', allowed.join(', '));
    throw new ApiError('method_not_allowed', `${what}: this path takes ${allowed.join(', ')}`);
  });
  app.addHook('onResponse', async (request, reply) => {
    const { method, routeOptions } = request;
    const seconds = reply.elapsedTime / 1000;
    const status = reply.statusCode;
    parts.counted.answered({ method, route: routeOptions.url, status, seconds });
  });
  app.addHook('onSend', async (_request, { raw }) => {
    raw.setTimeout(API_LIMITS.answerIdleMsMax, () => raw.destroy());
  });
  app.setErrorHandler(async (error: FastifyError, request, reply) => {
    await discardBody(error, request, reply, clock);
    return sendError(asCoded(error), request, reply, log);
  });
  await describeApi(app);
  await app.register(
    async (v1) => {
      const routes = v1.withTypeProvider() as App;
      completeRequests(routes, parts.control);
      addRoutes(routes, parts);
      await v1.register(async (files) => addFileRoutes(files as App, parts));
      await v1.register(async (own) => addOperatorRoutes(own as App, parts));
    },
    { prefix: '/v1' },
  );
  // Metrics cover all tenants.
  if (parts.tenant === null) addMetricsRoute(app.withTypeProvider() as unknown as App, parts.metrics);
  await app.ready();
  return app as unknown as App;
}

function addRoutes(app: App, parts: AppParts): void {
  const { clock, control, log, slots, tenant } = parts;
  addHostRoutes(app, parts);
  const sessions = new Sessions(control, log, () => slots.sessions.take(tenant));
  addSessionRoute(app, { clock, sessions });
  addSandboxRoutes(app, { ...parts, sessions });
  addSnapshotRoutes(app, parts);
  addPoolRoutes(app, parts);
  addVolumeRoutes(app, parts);
  addSecretRoutes(app, parts);
  addGuestRoutes(app, parts);
  addEventRoutes(app, { ...parts, takeStream: () => slots.streams.take(tenant) });
  addTunnelRoutes(app);
  addLoadRoute(app, parts.loads);
}

function completeRequests(routes: App, control: ControlPlane): void {
  routes.addHook('preValidation', async (request) => {
    // All fields of a body are optional, so the body is, too. JSON's null is not an empty body.
    if (request.body === undefined) request.body = {};
    if (request.routeOptions.url?.startsWith(SANDBOX_PATH) !== true) return;
    // Sessions, the audit log and limits know ids alone.
    const params = request.params as { id: string };
    params.id = await idOfSandbox(control, params.id);
  });
}

function addOperatorRoutes(app: App, parts: OperatorParts): void {
  const { tenant, administration, contents } = parts;
  app.addHook('onRequest', async () => {
    if (tenant === null) return;
    const what = 'images, templates, models, keys, tenants, settings and audit logs';
    throw new ApiError('forbidden', `${what} are the operator’s`, { remedy: 'ask the operator of this host' });
  });
  if (contents !== undefined) addContentsRoutes(app, { ...parts, contents });
  if (administration === undefined) return;
  addAdministrationRoutes(app, administration);
  addAuditRoutes(app, parts, administration);
}

const noLoads = (): SandboxLoads => ({
  atMs: 0,
  sandboxes: [],
  sharedMemoryBytes: null,
  memoryPressure: null,
  events: [],
});

/** The loads of only those sandboxes that the plane shows. */
async function ownLoads(control: ControlPlane, loads: SandboxLoads): Promise<SandboxLoads> {
  const own = new Set((await control.list()).map(({ id }) => id));
  return {
    atMs: loads.atMs,
    sandboxes: loads.sandboxes.filter(({ id }) => own.has(id)),
    sharedMemoryBytes: null,
    memoryPressure: null,
    events: loads.events.filter(({ sandbox }) => own.has(sandbox)),
  };
}

function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply, log: Log): FastifyReply {
  if (statusOf(error) === undefined) {
    log.error(`${request.method} ${request.routeOptions.url ?? '?'}`, { error: describeError(error) });
  }
  const { status, headers, body } = errorAnswer(error);
  return reply.status(status).headers(headers).type('application/json').send(body);
}

function asCoded(error: FastifyError): unknown {
  if (error instanceof CodedError) return error;
  const fault = requestFault(error, 'with part');
  if (fault === null) return error;
  if (fault.isContent) return new SandboxError('spec_invalid', fault.message);
  const code = CODES[fault.status] ?? 'request_invalid';
  return new ApiError(code, fault.message);
}

const CODES: Readonly<Record<number, ApiErrorCode>> = { 413: 'too_large', 415: 'media_type' };
