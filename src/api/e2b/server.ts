/**
 * E2B's interfaces on one port: the control plane, envd and the ports of sandboxes (docs/e2b.md). Programs that use
 * E2B's clients need only other addresses.
 *
 *     request ── dispatch.ts ──┬─ control/    create, list, end, …
 *                              ├─ templates/  what clients build sandboxes from
 *                              ├─ envd/       programs and files of a sandbox
 *                              ├─ interpreter/  access to the code interpreter, and its variables
 *                              └─ traffic/    a port of a sandbox
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { describeError } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { SandboxInfo } from '../../sandbox/contract/control.ts';
import { BusyError } from '../../sandbox/contract/errors.ts';
import { KeyWatch } from '../rest/key-watch.ts';
import type { App } from '../rest/route.ts';
import type { OtherInterface } from '../rest/server.ts';
import { equalInConstantTime } from '../tenants/callers.ts';
import { PerTenant } from '../tenants/per-tenant.ts';
import { callerOf, createControlApp } from './control/app.ts';
import { ENVD_PORT, INTERPRETER_PORT, type Target, targetOf } from './dispatch.ts';
import { answersPreflight } from './envd/cors.ts';
import { Envd, signedFile } from './envd/envd.ts';
import { Signers } from './envd/signers.ts';
import type { WithEvents } from './events/routes.ts';
import { Interpreters, mayUseInterpreter } from './interpreter/interpreter.ts';
import { isPublic } from './kept.ts';
import type { E2bParts, TemplateParts } from './parts.ts';
import { addTemplateRoutes, addUploadRoute } from './templates/routes.ts';
import { BuildTurns, Templates } from './templates/templates.ts';
import { UploadUrls } from './templates/uploads.ts';
import { SandboxLookup } from './traffic/lookup.ts';
import { PortProxy, refuseUpgrade } from './traffic/proxy.ts';
import { notFound, portClosed, sendRefusal, tokenNeeded } from './traffic/refusal.ts';

export interface E2bServer extends OtherInterface, AsyncDisposable {
  /** For tests: requests to the control plane without a connection. */
  readonly app: App;
}

const TRAFFIC_TOKEN = 'e2b-traffic-access-token';

type SandboxTarget = Extract<Target, { kind: 'sandbox' }>;

export interface E2bServerParts extends E2bParts, WithEvents {
  /** Without it, clients can't build templates. */
  readonly templates?: TemplateParts;
}

export async function createE2bServer(parts: E2bServerParts): Promise<E2bServer> {
  const { control, log } = parts;
  const urls = new UploadUrls(parts.clock);
  const turns = new BuildTurns();
  const { templates: builder } = parts;
  const templates = new PerTenant(async (tenant) =>
    builder === undefined
      ? null
      : await Templates.open(
          { ...parts, control: parts.callers.planeOf(tenant), templates: builder, urls, turns },
          tenant,
        ),
  );
  const { storage } = builder ?? {};
  storage?.count('templates', async (tenant) => (await templates.of(tenant))?.bytes ?? 0);
  storage?.countUploads(
    async (tenant) => (await (await templates.of(tenant))?.uploads.bytes()) ?? 0,
    async (tenant) => await (await templates.of(tenant))?.uploads.clear(),
  );
  const apps = new PerTenant(async (tenant) => {
    const own = await templates.of(tenant);
    if (own === null) return await createControlApp(parts, tenant);
    const add = (routes: App): void => {
      addTemplateRoutes(routes, own);
      // Uploads carry no key, so the operator's routes accept them for all tenants.
      if (tenant === null) addUploadRoute(routes, parts, urls);
    };
    return await createControlApp(parts, tenant, false, { source: own, add });
  });
  const app = await apps.of(null);
  const envd = new Envd(parts);
  const lookup = await SandboxLookup.open(parts);
  const proxy = new PortProxy(parts);
  const interpreters = new Interpreters(parts);
  const signers = await Signers.open(parts);
  const keyWatch = new KeyWatch(parts.callers);
  const stopForgetting = control.onChange(({ id, status }) => {
    if (status !== 'ended') return;
    envd.forget(id);
    interpreters.forget(id);
  });

  const door = new Door({ ...parts, app, apps, envd, lookup, proxy, interpreters, signers, keyWatch });
  const failed = (where: string) => (error: unknown) => log.error(`E2B ${where}`, { error: describeError(error) });
  return {
    app,
    takes: (request) => targetOf(request).kind !== 'own',
    takesUpgrade: (request) => {
      const target = targetOf(request);
      // An upgrade to HTTP/2 is ignored, as HTTP allows: the answer is in HTTP/1.1.
      const isH2 = /\bh2c?\b/i.test(request.headers.upgrade ?? '');
      return target.kind === 'sandbox' && target.port !== ENVD_PORT && !isH2;
    },
    request: (request, response) => {
      door.answer(request, response).catch((error: unknown) => {
        failed('request')(error);
        response.destroy();
      });
    },
    upgrade: (request, client, head) => {
      // Added at once: a reset while the sandbox is looked up would end the process.
      client.on('error', (error) => ignore(error, 'reported by the close that follows'));
      door.join(request, client, head).catch((error: unknown) => {
        failed('upgrade')(error);
        client.destroy();
      });
    },
    [Symbol.asyncDispose]: async () => {
      stopForgetting();
      lookup[Symbol.dispose]();
      keyWatch.close();
      signers[Symbol.dispose]();
      for (const one of await apps.all()) await one.close();
      // Concurrently: ending one tenant's builds may wait for the running build of another.
      await Promise.all((await templates.all()).map((one) => one?.[Symbol.asyncDispose]()));
    },
  };
}

interface DoorParts extends E2bServerParts {
  /** The operator's routes. */
  readonly app: App;
  readonly apps: PerTenant<App>;
  readonly envd: Envd;
  readonly lookup: SandboxLookup;
  readonly proxy: PortProxy;
  readonly interpreters: Interpreters;
  readonly signers: Signers;
  readonly keyWatch: KeyWatch;
}

/** Leads each request to the control plane or into the sandbox that its host names, if the request may reach that. */
class Door {
  readonly #parts: DoorParts;

  constructor(parts: DoorParts) {
    this.#parts = parts;
  }

  /** Null: the answer is sent. */
  async #sandboxOf(
    { id, port }: SandboxTarget,
    request: IncomingMessage,
    refuse: (refusal: ReturnType<typeof notFound>) => void,
  ): Promise<SandboxInfo | null> {
    const info = await this.#parts.lookup.find(id);
    if (info === null || !canServe(info)) refuse(notFound(id));
    else if (port === 0) refuse(portClosed(id, port));
    else if (!this.#mayReach(request, info, port))
      refuse(tokenNeeded(id, request.headers[TRAFFIC_TOKEN] !== undefined));
    else return info;
    return null;
  }

  #mayReach(request: IncomingMessage, info: SandboxInfo, port: number): boolean {
    // It judges by itself.
    if (port === ENVD_PORT) return true;
    if (port === INTERPRETER_PORT) return mayUseInterpreter(request, info.id, this.#parts);
    return isPublic(info) || this.#hasToken(request, info.id);
  }

  #hasToken({ headers }: IncomingMessage, id: string): boolean {
    const given = headers[TRAFFIC_TOKEN];
    return typeof given === 'string' && equalInConstantTime(given, this.#parts.tokens.traffic(id));
  }

  /** The URL does not say whose file it is. Null: the answer is sent. */
  #signerOf(request: IncomingMessage, refuse: (refusal: ReturnType<typeof notFound>) => void): string | null {
    const signed = signedFile(request);
    try {
      const id = signed === null ? null : this.#parts.signers.find(signed);
      if (id === null) refuse({ status: 401, body: { code: 401, message: 'invalid signature' } });
      return id;
    } catch (error) {
      if (!(error instanceof BusyError)) throw error;
      refuse({ status: 429, body: { code: 429, message: error.message } });
      return null;
    }
  }

  /** The sandbox may have ended or been paused since it was found. */
  async #answerEnvd(request: IncomingMessage, response: ServerResponse, info: SandboxInfo): Promise<void> {
    await this.#parts.envd.answer(request, response, info, () => sendRefusal(request, response, notFound(info.id)));
  }

  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const target = targetOf(request);
    const isOfProgram = target.kind === 'sandbox' && target.port !== ENVD_PORT;
    if (!isOfProgram && answersPreflight(request, response)) return;
    if (target.kind === 'signed') {
      const id = this.#signerOf(request, (why) => sendRefusal(request, response, why));
      if (id === null) return;
      const named: SandboxTarget = { kind: 'sandbox', id, port: ENVD_PORT };
      const info = await this.#sandboxOf(named, request, (why) => sendRefusal(request, response, why));
      if (info !== null) await this.#answerEnvd(request, response, info);
    } else if (target.kind === 'sandbox') {
      const info = await this.#sandboxOf(target, request, (why) => sendRefusal(request, response, why));
      if (info === null) return;
      if (target.port === INTERPRETER_PORT) await this.#parts.interpreters.prepare(info);
      if (target.port === ENVD_PORT) await this.#answerEnvd(request, response, info);
      else await this.#parts.proxy.answer(request, response, info, target.port);
    } else {
      const caller = callerOf(request, this.#parts.callers);
      if (caller !== null) this.#parts.keyWatch.follow(caller, response);
      // The operator's routes answer with the refusal.
      const own = caller === null ? this.#parts.app : await this.#parts.apps.of(caller.tenant);
      own.routing(request, response);
    }
  }

  async join(request: IncomingMessage, client: Duplex, head: Buffer): Promise<void> {
    const target = targetOf(request);
    if (target.kind !== 'sandbox') {
      client.destroy();
      return;
    }
    const info = await this.#sandboxOf(target, request, (why) => refuseUpgrade(request, client, why));
    if (info !== null) await this.#parts.proxy.join(request, client, head, info, target.port);
  }
}

/** A paused sandbox is resumed by a request if it may be, but never booted: its programs would be gone. */
const canServe = ({ status, pausedTo, autoResume }: SandboxInfo): boolean =>
  status !== 'paused' || (autoResume && pausedTo !== 'disk-only');
