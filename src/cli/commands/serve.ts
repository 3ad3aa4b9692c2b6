/** `neurovisor serve`: the daemon. Holds sandboxes and pools, and serves them at a socket. */
import { join } from 'node:path';
import type { Certificate } from '../../api/listener.ts';
import { createApiServer } from '../../api/server.ts';
import { CleanupStack } from '../../base/cleanup.ts';
import { systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { ContentMode } from '../../base/text/content-mode.ts';
import { plain } from '../../base/text/plain.ts';
import type { JailMode, MemorySharing, MemoryShort } from '../../config.ts';
import { openEvents } from '../../e2b/events/open.ts';
import { createE2bServer } from '../../e2b/server.ts';
import { accessTokens } from '../../e2b/tokens.ts';
import { daemonSocket, requireRunDir, resolveHome } from '../../home.ts';
import { openControlPlane } from '../../runtime/control.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import { eventPoster } from '../../runtime/webhook.ts';
import type { ControlPlane, PoolLimits } from '../../sandbox/control.ts';
import { AuditLog } from '../../tenants/audit.ts';
import { modelRequestLog } from '../../tenants/audit-models.ts';
import { KnownKeys } from '../../tenants/keys.ts';
import { ModelBudgets } from '../../tenants/model-budgets.ts';
import { TenantQuotas } from '../../tenants/quota.ts';
import { HostStore, KnownHost, KnownTenants } from '../../tenants/settings.ts';
import { StorageQuota } from '../../tenants/storage-quota.ts';
import { Tenancy } from '../../tenants/tenancy.ts';
import type { Cli } from '../cli.ts';
import { followCertificate, readCertificate } from '../daemon/certificate.ts';
import { apiKey, tokenKey } from '../daemon/keys.ts';
import { VmTemplateBuilds } from '../daemon/template-builds.ts';
import { type CassetteFlags, cassetteChoice } from '../flags/cassette-flags.ts';
import { defaultDomain, type ListenFlags, listenChoice, urlOf } from '../flags/listen-flags.ts';
import { parseSharedBudget } from '../flags/model-budget.ts';
import { modelChoice } from '../flags/model-choice.ts';
import { checkedFields } from '../flags/sandbox-flags.ts';
import { openRuntime } from './open-runtime.ts';

export interface ServeFlags extends ListenFlags, CassetteFlags {
  readonly pool: PoolLimits;
  readonly model?: string;
  readonly allowField?: readonly string[];
  readonly modelBudget?: readonly string[];
  readonly auditContent?: ContentMode;
  /** Bytes. */
  readonly modelCache?: number;
  readonly memorySharing?: MemorySharing;
  readonly memoryShort?: MemoryShort;
  readonly jail?: JailMode;
  readonly openMetrics?: boolean;
}

/** What `-o json` prints when the daemon is ready. */
export interface ServeReport {
  readonly socketPath: string;
  readonly url: string | null;
  /** Names of sandboxes end with it, for E2B's clients; null without a port. */
  readonly domain: string | null;
  /** A file that only its owner can read; null without a port. */
  readonly apiKeyPath: string | null;
  readonly pid: number;
  readonly vmm: string;
  /** Why this VMM was chosen. */
  readonly vmmReason: string;
  /** Confinement of the VMMs, and its gaps. */
  readonly jail: { readonly description: string; readonly gaps: readonly string[] };
  /** Whose sandboxes share memory, or why none does. */
  readonly memorySharing: string;
  readonly upstream: string;
  /** What the log keeps of requests to models and their answers. */
  readonly auditContent: ContentMode;
  readonly pool: PoolLimits;
}

/**
 * @param release releases the daemon lock of the home
 * @returns after a signal, once everything has stopped except what is paused to disk
 */
export async function serve(cli: Cli, flags: ServeFlags, release: () => void): Promise<number> {
  const { pool } = flags;
  const at = listenChoice(flags);
  const certificate = at?.tls == null ? undefined : await readCertificate(at.tls);
  const home = resolveHome(cli.config.home);
  const socketPath = daemonSocket(home);
  const choice = modelChoice(flags.model, cli.config);
  const budget = parseSharedBudget(flags.modelBudget ?? []);
  const cassette = cassetteChoice(flags, cli.config);
  const allowFields = [...cli.config.allowFields, ...checkedFields(flags.allowField ?? [])];
  const cleanup = new CleanupStack();
  cli.ignoreClosedOutput();
  try {
    cleanup.push('lock of the home', release);
    // Closed after the runtime: model requests count when they end.
    const counted = { homeDir: home.dir, clock: systemClock, log: cli.log };
    if (budget !== undefined) new HostStore(home.dir).set({ modelBudget: budget });
    const tenants = new KnownTenants(home.dir, systemClock, cli.log);
    const knownHost = new KnownHost(home.dir, systemClock, cli.log);
    const budgets = await ModelBudgets.open({ ...counted, tenants, host: knownHost });
    cleanup.push('use of budgets', () => budgets[Symbol.asyncDispose]());
    const modelAudit = await AuditLog.open({ ...counted, kind: 'models' });
    cleanup.push('audit log of model requests', () => modelAudit[Symbol.asyncDispose]());
    const auditContent = flags.auditContent ?? cli.config.auditContent;
    const hasContents = auditContent === 'redacted' || auditContent === 'full';
    const contents = hasContents ? await AuditLog.open({ ...counted, kind: 'content' }) : null;
    if (contents !== null) {
      cleanup.push('audit log of contents', () => contents[Symbol.asyncDispose]());
    }
    const keys = new KnownKeys(home.dir, systemClock, cli.log);
    const memorySharing = flags.memorySharing ?? cli.config.memorySharing;
    const quotas = new TenantQuotas(tenants, systemClock, {
      isAcross: memorySharing === 'share-all',
      hasTenants: () => keys.hasTenants(),
    });
    const runtime = await openRuntime(cli, {
      keepsProgress: true,
      observes: true,
      config: {
        ...cli.config,
        allowFields,
        cassette,
        auditContent,
        memorySharing,
        jail: flags.jail ?? cli.config.jail,
      },
      modelPath: choice.path,
      modelCacheBytes: flags.modelCache,
      sharedBudgets: { of: (tenant) => budgets.of(tenant), used: budgets.used },
      requestLog: modelRequestLog(modelAudit, contents, (id) => quotas.tenantOf(id)),
    });
    cleanup.push('runtime', () => runtime.close());
    choice.check(runtime.upstream);
    runtime.metrics.registry.add(...budgets.metrics());
    const opened = await openControlPlane(runtime, cli.log, {
      gate: quotas,
      memoryShort: flags.memoryShort ?? cli.config.memoryShort,
      modelBudgets: () => budgets.list(),
    });
    cleanup.push('control plane', () => opened[Symbol.asyncDispose]());
    runtime.metrics.addControl(opened.control, opened.queue);
    await quotas.watch(opened.control);
    runtime.onUsage(({ sandboxId }) => {
      budgets.note(quotas.tenantOf(sandboxId), (account) => runtime.modelUse(account));
    });
    runtime.setOwners({
      tenantOf: (id) => quotas.tenantOf(id),
      cacheScopeOf: (id) => {
        const tenant = quotas.tenantOf(id);
        return tenant === null ? null : keys.incarnationOf(tenant);
      },
    });
    const key = at === null ? null : await apiKey(cli.config.daemonKey, home.dir);
    const tenancy =
      key === null
        ? undefined
        : new Tenancy({
            control: opened.control,
            keys,
            apiKey: key.key,
            storage: new StorageQuota(tenants, () => opened.control.pausedBytes()),
            hostedOf: (tenant) => tenants.hostedOf(tenant),
          });
    const events =
      tenancy === undefined
        ? undefined
        : await openEvents({
            path: join(home.dir, 'events.db'),
            control: opened.control,
            clock: systemClock,
            log: cli.log,
            post: eventPoster({ hosts: runtime.webhookHosts, log: cli.log }),
          });
    if (events !== undefined) cleanup.push('events', () => events[Symbol.asyncDispose]());
    const audit = await AuditLog.open({ homeDir: home.dir, clock: systemClock, log: cli.log });
    cleanup.push('audit log', () => audit[Symbol.asyncDispose]());
    let domain: string | null = null;
    const e2b =
      tenancy === undefined
        ? undefined
        : await createE2bServer({
            control: opened.control,
            log: cli.log,
            clock: systemClock,
            tokens: accessTokens(await tokenKey(home.dir)),
            callers: tenancy,
            events,
            audit,
            domain: () => domain ?? 'localhost',
            templates: {
              builds: new VmTemplateBuilds(runtime, {
                log: cli.log,
                signal: cli.cancelled,
                quotaBytes: cli.config.imageQuotaBytes,
              }),
              stateDir: join(home.dir, 'e2b-templates'),
              uploadsDir: join(home.cacheDir, 'e2b-uploads'),
              admit: (tenant, memoryMib) => quotas.admitBuild(tenant, memoryMib),
            },
          });
    if (e2b !== undefined) cleanup.push('E2B server', () => e2b[Symbol.asyncDispose]());
    const api = await createApiServer({
      control: opened.control,
      log: cli.log,
      metrics: runtime.metrics.registry,
      tracer: runtime.tracer,
      loads: () => runtime.metrics.loads(),
      openMetrics: flags.openMetrics === true,
      beside: e2b,
      callers: tenancy,
      audit,
      names: at?.names ?? [],
      ...(key === null ? {} : { apiKey: key.key }),
    });
    cleanup.push('REST server', () => api.close());
    requireRunDir(home.runDir);
    // Before anything else: a daemon that is refused here must not have changed anything.
    await api.listen({ socketPath });
    const port = at === null ? null : ((await api.listen({ ...at, certificate })) ?? 0);
    if (at !== null && port !== null) domain = at.domain ?? defaultDomain(at, port);
    if (at?.tls != null && certificate !== undefined) {
      const parts = { clock: systemClock, log: cli.log };
      const use = (renewed: Certificate): void => api.setCertificate(renewed);
      cleanup.push(
        'renewal of the certificate',
        followCertificate(at.tls, certificate, parts, use),
      );
    }
    if (at?.warning != null) cli.log.warn(at.warning);
    if (pool.max > 0) await opened.control.setPool(pool);
    cli.progress.close();
    runtime.warmUpstream();
    const report = reportOf(runtime, {
      socketPath,
      auditContent,
      pool,
      apiKeyPath: key?.path ?? null,
      url: at === null || port === null ? null : urlOf(at, port),
      domain,
    });
    printReport(cli, report);
    await interrupted(cli);
    if (!cli.json) cli.stderr.write(`${await farewell(opened.control)}\n`);
    return 0;
  } finally {
    cli.progress.close();
    await cleanup.run();
  }
}

function reportOf(
  runtime: Runtime,
  rest: Pick<ServeReport, 'socketPath' | 'url' | 'domain' | 'apiKeyPath' | 'auditContent' | 'pool'>,
): ServeReport {
  const { driver, upstream } = runtime;
  const { description, gaps } = runtime.confinement;
  return {
    ...rest,
    pid: process.pid,
    vmm: driver.description,
    vmmReason: runtime.vmmReason,
    memorySharing: driver.memorySharing ?? 'none',
    upstream: upstream.description,
    jail: { description, gaps: gaps.map(({ text }) => text) },
  };
}

function printReport(cli: Cli, report: ServeReport): void {
  if (cli.json) {
    cli.printJson(report);
    return;
  }
  const {
    socketPath,
    url,
    domain,
    apiKeyPath,
    vmm,
    vmmReason,
    memorySharing,
    jail,
    upstream,
    pool,
    auditContent,
  } = report;
  const lines = [
    `neurovisor is ready: ${vmm}, models from ${upstream}`,
    `  socket  ${socketPath}`,
    ...(url === null ? [] : [`  url     ${url}`]),
    ...(domain === null ? [] : [`  names   PORT-ID.${domain} of sandboxes`]),
    ...(apiKeyPath === null ? [] : [`  key     in ${apiKeyPath}`]),
    ...(auditContent === 'off' ? [] : [`  audit   keeps requests to models: ${auditContent}`]),
    `  pool    ${poolText(pool)}`,
    `  VMM     ${vmmReason}`,
    `  memory  ${memorySharing}`,
    `  jail    ${jail.description}`,
    ...jail.gaps.filter((gap) => !gap.includes(jail.description)).map((gap) => `          ${gap}`),
    'Press Ctrl-C to stop. Sandboxes end; those paused to disk are kept.',
  ];
  cli.stderr.write(`${lines.map(plain).join('\n')}\n`);
}

function poolText({ min, max }: PoolLimits): string {
  if (max === 0) return 'none';
  const count = min === max ? `${max}` : `${min} to ${max}`;
  return max === 1 && min === 1 ? '1 idle sandbox' : `${count} idle sandboxes`;
}

/** Resolves at the first signal. */
function interrupted(cli: Cli): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  // Signal handlers do not keep a process alive.
  const alive = setInterval(() => undefined, 2 ** 30);
  const over = (): void => {
    clearInterval(alive);
    resolve();
  };
  if (cli.cancelled.aborted) over();
  cli.cancelled.addEventListener('abort', over, { once: true });
  return promise;
}

async function farewell(control: ControlPlane): Promise<string> {
  try {
    const all = await control.list();
    const kept = all.filter(
      ({ pausedTo }) => pausedTo === 'disk' || pausedTo === 'disk-only',
    ).length;
    const stays = kept === 0 ? '' : `; ${kept} paused to disk ${kept === 1 ? 'is' : 'are'} kept`;
    const ends = all.length - kept;
    if (ends === 0) return `stopping; no sandbox is running${stays}`;
    return `stopping ${ends} ${ends === 1 ? 'sandbox' : 'sandboxes'}${stays}`;
  } catch (error) {
    return `stopping: ${describeError(error)}`;
  }
}
