/** A server for E2B's clients, on a control plane whose sandboxes are agents of this machine. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openEvents } from '../../src/api/e2b/events/open.ts';
import type { PostEvent } from '../../src/api/e2b/events/webhooks.ts';
import type { TemplateParts } from '../../src/api/e2b/parts.ts';
import { createE2bServer } from '../../src/api/e2b/server.ts';
import { accessTokens } from '../../src/api/e2b/tokens.ts';
import type { Certificate } from '../../src/api/rest/listener.ts';
import { type ApiServer, createApiServer } from '../../src/api/rest/server.ts';
import type { AuditSink } from '../../src/api/tenants/audit.ts';
import { type Callers, operatorOnly } from '../../src/api/tenants/callers.ts';
import { systemClock } from '../../src/base/clock.ts';
import { type Log, silentLog } from '../../src/base/log.ts';
import type { ControlPlane } from '../../src/sandbox/contract/control.ts';
import { FakeControlPlane, type FakeOptions } from './fake-control-plane.ts';
import { FakeTemplateBuilds } from './fake-template-builds.ts';

export interface E2bWorld extends AsyncDisposable {
  readonly control: FakeControlPlane;
  readonly builds: FakeTemplateBuilds;
  readonly api: ApiServer;
  readonly url: string;
  /** Suffix of the sandboxes' host names, with the port. */
  readonly domain: string;
  readonly apiKey: string;
  readonly client: { readonly apiKey: string; readonly apiUrl: string; readonly sandboxUrl: string };
  readonly errors: string[];
  /** Decides about template builds. */
  admit: NonNullable<TemplateParts['admit']>;
}

export interface E2bWorldOptions extends FakeOptions {
  /** Default: no TLS. */
  readonly certificate?: Certificate;
  /** Suffix of the sandboxes' host names, without the port. Default: localhost. */
  readonly domain?: string;
  /** Directory of template names. Default: one that is removed at the end. */
  readonly templatesDir?: string;
  /** File of events. Default: none. */
  readonly eventsPath?: string;
  /** Posts events to webhooks. */
  readonly post?: PostEvent;
}

export async function openE2bWorld(
  options: E2bWorldOptions = {},
  callersOf: (control: ControlPlane, apiKey: string) => Callers = operatorOnly,
  audit?: AuditSink,
): Promise<E2bWorld> {
  const { certificate, domain = 'localhost', eventsPath } = options;
  const { post = async () => undefined } = options;
  const scratch = await mkdtemp(join(tmpdir(), 'nv-e2b-world-'));
  const builds = new FakeTemplateBuilds();
  const control = new FakeControlPlane(options);
  const errors: string[] = [];
  const log: Log = { ...silentLog, error: (message, fields) => errors.push(`${message} ${JSON.stringify(fields)}`) };
  const apiKey = `e2b_${'0'.repeat(40)}`;
  const callers = callersOf(control, apiKey);
  const events =
    eventsPath === undefined ? undefined : openEvents({ path: eventsPath, control, clock: systemClock, log, post });
  await events?.begin();
  let port = 0;
  const e2b = await createE2bServer({
    control,
    log,
    clock: systemClock,
    tokens: accessTokens(Buffer.alloc(32, 7)),
    callers,
    events,
    audit,
    domain: () => `${domain}:${port}`,
    templates: {
      builds,
      stateDir: join(options.templatesDir ?? scratch, 'e2b-templates'),
      uploadsDir: join(options.templatesDir ?? scratch, 'uploads'),
      admit: (tenant, memoryMib) => world.admit(tenant, memoryMib),
    },
  });
  const names = [domain, `api.${domain}`];
  const api = await createApiServer({ control, log, apiKey, callers, audit, beside: e2b, names });
  port = (await api.listen({ port: 0, certificate })) ?? 0;
  const url = `${certificate === undefined ? 'http' : 'https'}://127.0.0.1:${port}`;
  const world: E2bWorld = {
    control,
    builds,
    api,
    url,
    domain: `${domain}:${port}`,
    apiKey,
    client: { apiKey, apiUrl: url, sandboxUrl: url },
    errors,
    admit: () => () => undefined,
    async [Symbol.asyncDispose]() {
      await api.close();
      await e2b[Symbol.asyncDispose]();
      await events?.[Symbol.asyncDispose]();
      await control[Symbol.asyncDispose]();
      await rm(scratch, { recursive: true, force: true });
    },
  };
  return world;
}
