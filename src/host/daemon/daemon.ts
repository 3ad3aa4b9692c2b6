/**
 * The daemon: composes everything that `neurovisor serve` holds while it runs.
 *
 *     accounts  limits of tenants, and their recorded usage
 *     plane     the runtime and its sandboxes
 *     doors     REST, and E2B's interfaces beside it
 */
import { join } from 'node:path';
import { openEvents } from '../../api/e2b/events/open.ts';
import { createE2bServer, type E2bServer } from '../../api/e2b/server.ts';
import { accessTokens } from '../../api/e2b/tokens.ts';
import type { Certificate } from '../../api/rest/listener.ts';
import { type ApiServer, createApiServer } from '../../api/rest/server.ts';
import { HomeAdministration, removeOwned } from '../../api/tenants/administration.ts';
import { type AuditFailures, AuditLog, auditFailuresMetric } from '../../api/tenants/audit.ts';
import { modelRequestLog } from '../../api/tenants/audit-models.ts';
import { KeyStore } from '../../api/tenants/keys.ts';
import { ModelBudgets } from '../../api/tenants/model-budgets.ts';
import { TenantQuotas } from '../../api/tenants/quota.ts';
import { HostStore, TenantStore } from '../../api/tenants/settings.ts';
import { StorageQuota } from '../../api/tenants/storage-quota.ts';
import { Tenancy } from '../../api/tenants/tenancy.ts';
import { CleanupStack } from '../../base/cleanup.ts';
import { systemClock } from '../../base/clock.ts';
import type { Config } from '../../base/config.ts';
import { daemonSocket, type Home, requireRunDir, resolveHome } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import type { Progress } from '../../base/progress.ts';
import { tenantAccount, type WindowedBudget } from '../../base/request/model-limits.ts';
import { eventPoster } from '../../egress/webhook.ts';
import type { ControlPlane, PoolLimits } from '../../sandbox/contract/control.ts';
import type { StopOptions } from '../../sandbox/plane/control-plane.ts';
import { VmTemplateBuilds } from '../builds/template-builds.ts';
import { homeContents } from '../contents/contents.ts';
import { privateRules } from '../runtime/network.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Upstream } from '../runtime/upstream.ts';
import type { ProcessRef } from '../runtime/workspace.ts';
import { openPlane, type Plane } from './plane.ts';
import { apiKey, tokenKey } from './secrets.ts';

export interface DaemonOptions {
  readonly config: Config;
  readonly log: Log;
  readonly progress: Progress;
  /** Aborts set-up and template builds. */
  readonly signal: AbortSignal;
  readonly modelPath?: string | undefined;
  /** @throws CodedError if no detected server can serve the chosen model */
  readonly checkUpstream: (upstream: Upstream) => void;
  /** Stored as the budget of all sandboxes from now on; `null`: none. Default: the stored one. */
  readonly modelBudget?: WindowedBudget | null | undefined;
  /** Memory for cached answers, bytes. */
  readonly modelCacheBytes?: number | undefined;
  /** Limits of the default pool. */
  readonly pool: PoolLimits;
  readonly openMetrics: boolean;
  /** Starts this process again if it is killed: then its VMs live on. Default: they end with it. */
  readonly keeper?: ProcessRef | null;
  /** When the daemon before was lost, Unix time in ms. Default: unknown. */
  readonly lostAtMs?: number | null;
  /** `null`: only the home's socket. */
  readonly port: PortOptions | null;
}

export interface PortOptions {
  /** 0 chooses any free port. */
  readonly port: number;
  /** An IP address. */
  readonly host: string;
  readonly certificate: Certificate | undefined;
  /** A socket that already listens there; null: none. */
  readonly fd: number | null;
  /** Names of this machine that requests may have in `Host`. */
  readonly names: readonly string[];
  /** @param port the bound port. @returns the domain of sandboxes' names */
  readonly domainOf: (port: number) => string;
}

export interface Daemon extends AsyncDisposable {
  readonly runtime: Runtime;
  readonly control: ControlPlane;
  readonly socketPath: string;
  /** `null` if only the socket is open. */
  readonly bound: { readonly port: number; readonly domain: string } | null;
  /** File of the API key; `null` without a port, or if the key comes from the environment. */
  readonly apiKeyPath: string | null;
  /** Its VMs live on if it is killed: its keeper starts another, which takes them over. */
  readonly keepsVms: boolean;
  /** Used for new connections. */
  setCertificate(renewed: Certificate): void;
  /** Before its end: pauses to disk what the next daemon shall resume. Clients that come now wait for that daemon. */
  pauseAll(options: StopOptions): Promise<void>;
}

/**
 * Opens everything and listens. Dispose of it to stop: sandboxes that are paused to disk are kept.
 * @param held called at the end, after everything else was closed, or if opening fails
 */
export async function openDaemon(options: DaemonOptions, held: () => void): Promise<Daemon> {
  const cleanup = new CleanupStack();
  try {
    cleanup.push('lock of the home', held);
    const home = resolveHome(options.config.home);
    const accounts = await openAccounts(options, home, cleanup);
    const plane = await openTenantsPlane(options, accounts, cleanup);
    const doors = await openDoors({
      options,
      home,
      accounts,
      plane,
      storage: new StorageQuota(accounts.tenants, accounts.quotas, plane.control),
      cleanup,
    });
    const { api, key } = doors;
    const socketPath = daemonSocket(home);
    requireRunDir(home.runDir);
    // The socket comes first: a daemon that is refused here must not have changed anything.
    await api.listen({ socketPath });
    await plane.control.adopt();
    await doors.events?.begin();
    const bound = await bind(options.port, doors);
    if (options.pool.max > 0) await plane.control.setPool(options.pool);
    plane.runtime.warmUpstream();
    plane.runtime.watchLoop();
    void plane.control.resumeStopped();
    return {
      runtime: plane.runtime,
      control: plane.control,
      socketPath,
      bound,
      apiKeyPath: key?.path ?? null,
      keepsVms: plane.runtime.keepsVms,
      setCertificate: (renewed) => api.setCertificate(renewed),
      pauseAll: async (options) => {
        api.stopAccepting();
        await plane.control.pauseAll(options);
      },
      [Symbol.asyncDispose]: () => cleanup.run(),
    };
  } catch (error) {
    await cleanup.run();
    throw error;
  }
}

interface Accounts {
  readonly tenants: TenantStore;
  readonly host: HostStore;
  readonly budgets: ModelBudgets;
  readonly keys: KeyStore;
  readonly quotas: TenantQuotas;
  readonly auditFailures: AuditFailures;
  readonly modelAudit: AuditLog;
  /** `null` if contents are not kept. */
  readonly contents: AuditLog | null;
}

/** Closed after the runtime: model requests count when they end. */
async function openAccounts(
  { config, log, modelBudget }: DaemonOptions,
  { dir: homeDir }: Home,
  cleanup: CleanupStack,
): Promise<Accounts> {
  const clock = systemClock;
  const counted = { homeDir, clock, log };
  const failures = auditFailuresMetric();
  const audited = { ...counted, failures };
  const keys = new KeyStore(homeDir, clock);
  const tenants = new TenantStore(homeDir);
  const host = new HostStore(homeDir);
  if (modelBudget !== undefined) host.set({ modelBudget });
  const budgets = await ModelBudgets.open({ ...counted, tenants, host });
  cleanup.push('use of budgets', () => budgets[Symbol.asyncDispose]());
  const modelAudit = await AuditLog.open({ ...audited, kind: 'models' });
  cleanup.push('audit log of model requests', () => modelAudit[Symbol.asyncDispose]());
  const { auditContent, memorySharing } = config;
  const hasContents = auditContent === 'redacted' || auditContent === 'full';
  const contents = hasContents ? await AuditLog.open({ ...audited, kind: 'content' }) : null;
  if (contents !== null) cleanup.push('audit log of contents', () => contents[Symbol.asyncDispose]());
  const sharing = { isAcross: memorySharing === 'share-all', hasTenants: () => keys.hasTenants() };
  const quotas = new TenantQuotas(tenants, clock, sharing, () => host.get().cordoned);
  return { tenants, host, budgets, keys, quotas, auditFailures: failures, modelAudit, contents };
}

async function openTenantsPlane(
  options: DaemonOptions,
  { budgets, keys, quotas, tenants, modelAudit, contents, auditFailures }: Accounts,
  cleanup: CleanupStack,
): Promise<Plane> {
  const { config, log, progress, signal, modelPath, modelCacheBytes, checkUpstream, keeper, lostAtMs } = options;
  const plane = await openPlane({
    config,
    log,
    progress,
    signal,
    observes: true,
    keeper,
    modelPath,
    modelCacheBytes,
    sharedBudgets: { of: (tenant) => budgets.of(tenant), used: budgets.used },
    requestLog: modelRequestLog(modelAudit, contents, (id) => quotas.tenantOf(id)),
    checkUpstream,
    sandboxes: { gate: quotas, memoryShort: config.memoryShort, modelBudgets: () => budgets.list(), lostAtMs },
  });
  cleanup.push('plane', () => plane[Symbol.asyncDispose]());
  const { runtime, control, queue } = plane;
  runtime.metrics.registry.add(...budgets.metrics(), quotas.refusals.metric, auditFailures);
  runtime.metrics.addControl(control, queue, quotas);
  await quotas.watch(control);
  runtime.onUsage(({ sandboxId }) => {
    budgets.note(quotas.tenantOf(sandboxId), (account) => runtime.modelUse(account));
  });
  runtime.setOwners({
    tenantOf: (id) => quotas.tenantOf(id),
    cacheScopeOf: (id) => {
      const tenant = quotas.tenantOf(id);
      return tenant === null ? null : keys.incarnationOf(tenant);
    },
    modelsOf: (tenant) => (tenant === null ? undefined : tenants.get(tenant).allowModels),
    mayLogIn: (id, host) => {
      const tenant = quotas.tenantOf(id);
      return tenant === null || tenants.mayLogIn(tenant, host);
    },
  });
  return plane;
}

interface Composition {
  readonly options: DaemonOptions;
  readonly home: Home;
  readonly accounts: Accounts;
  readonly plane: Plane;
  readonly storage: StorageQuota;
  readonly cleanup: CleanupStack;
}

interface Doors {
  readonly api: ApiServer;
  /** `null` without a port. */
  readonly key: { readonly key: string; readonly path: string | null } | null;
  /** Absent without a port. */
  readonly events: Events | undefined;
  setDomain(domain: string): void;
}

async function openDoors(parts: Composition): Promise<Doors> {
  const { options, home, accounts, plane, cleanup } = parts;
  const { config, log, port, openMetrics, signal } = options;
  const { control, runtime } = plane;
  const key = port === null ? null : await apiKey(config.daemonKey, home.dir);
  const tenancy = key === null ? undefined : tenancyOf(parts, key.key);
  const events = tenancy === undefined ? undefined : eventsOf(parts);
  const failures = accounts.auditFailures;
  const audit = await AuditLog.open({ homeDir: home.dir, clock: systemClock, log, failures });
  cleanup.push('audit log', () => audit[Symbol.asyncDispose]());
  let domain = 'localhost';
  const e2b =
    tenancy === undefined ? undefined : await e2bOf(parts, { callers: tenancy, events, audit, domain: () => domain });
  const api = await createApiServer({
    control,
    log,
    metrics: runtime.metrics.registry,
    tracer: runtime.tracer,
    loads: () => runtime.metrics.loads(),
    openMetrics,
    beside: e2b,
    callers: tenancy,
    administration: administrationOf(parts, events),
    audit,
    contents: homeContents({ config, log, signal, runtime: async () => runtime }),
    names: port?.names ?? [],
    ...(key === null ? {} : { apiKey: key.key }),
  });
  cleanup.push('REST server', () => api.close());
  const setDomain = (name: string): void => {
    domain = name;
  };
  return { api, key, events, setDomain };
}

function administrationOf(
  { accounts, home, plane, storage }: Composition,
  events: Events | undefined,
): HomeAdministration {
  const { keys, tenants, host, budgets } = accounts;
  const stores = { keys: () => keys, tenants: () => tenants, host: () => host };
  return new HomeAdministration(home.dir, stores, {
    useOf: (tenant) => storage.useOf(tenant),
    removeOwned: async (tenant) => {
      const removed = await removeOwned(plane.control, tenant);
      events?.webhooks.forget(tenant);
      return removed;
    },
    forgetBudget: (tenant) => {
      budgets.forget(tenant);
      plane.runtime.forgetModelUse(tenantAccount(tenant));
    },
  });
}

function tenancyOf({ accounts, plane, storage }: Composition, key: string): Tenancy {
  const { tenants, keys } = accounts;
  return new Tenancy({
    control: plane.control,
    keys,
    apiKey: key,
    storage,
    ceilingOf: (tenant) => tenants.get(tenant),
    privateRules,
    packageLogin: () => plane.runtime.packageLogin(),
  });
}

type Events = ReturnType<typeof openEvents>;

/** Events for E2B clients and for webhooks. */
function eventsOf({ options, home, plane, storage, cleanup }: Composition): Events {
  const { log } = options;
  const { control, runtime } = plane;
  const events = openEvents({
    path: join(home.dir, 'events.db'),
    control,
    clock: systemClock,
    log,
    post: eventPoster({ hosts: runtime.webhookHosts, log }),
  });
  storage.count('events', (tenant) => events.journal.bytesOf(tenant));
  cleanup.push('events', () => events[Symbol.asyncDispose]());
  return events;
}

interface E2bUses {
  readonly callers: Tenancy;
  readonly events: Events | undefined;
  readonly audit: AuditLog;
  readonly domain: () => string;
}

async function e2bOf(
  { options, home, accounts, plane, storage, cleanup }: Composition,
  uses: E2bUses,
): Promise<E2bServer> {
  const { config, log, signal } = options;
  const e2b = await createE2bServer({
    ...uses,
    control: plane.control,
    log,
    clock: systemClock,
    tokens: accessTokens(await tokenKey(home.dir)),
    templates: {
      builds: new VmTemplateBuilds(plane.runtime, { log, signal, quotaBytes: config.imageQuotaBytes }),
      stateDir: join(home.dir, 'e2b-templates'),
      uploadsDir: join(home.cacheDir, 'e2b-uploads'),
      admit: (tenant, memoryMib) => accounts.quotas.admitBuild(tenant, memoryMib),
      storage,
    },
  });
  cleanup.push('E2B server', () => e2b[Symbol.asyncDispose]());
  return e2b;
}

async function bind(at: PortOptions | null, { api, setDomain }: Doors): Promise<Daemon['bound']> {
  if (at === null) return null;
  const { host, certificate, fd } = at;
  const port = (await api.listen({ host, port: at.port, certificate, fd })) ?? 0;
  const domain = at.domainOf(port);
  setDomain(domain);
  return { port, domain };
}
