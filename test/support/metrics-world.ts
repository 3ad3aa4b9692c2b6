/** A host without VMs, a bridge with a scripted model server and the REST server, all of them counted. */
import { mkdtemp, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ApiServer, createApiServer } from '../../src/api/rest/server.ts';
import { AuditLog, auditFailuresMetric } from '../../src/api/tenants/audit.ts';
import { ModelBudgets } from '../../src/api/tenants/model-budgets.ts';
import { QuotaRefusals } from '../../src/api/tenants/quota-refusals.ts';
import { unset } from '../../src/api/tenants/settings.ts';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { systemClock } from '../../src/base/clock.ts';
import { type Log, silentLog } from '../../src/base/log.ts';
import { spansMetric } from '../../src/base/trace/exporter.ts';
import { passiveTracer, type Tracer } from '../../src/base/trace/trace.ts';
import { createPackageGateway } from '../../src/egress/packages/gateway.ts';
import { KernelProbes } from '../../src/host/probes/kernel-probes.ts';
import { VmmViolations } from '../../src/host/probes/vmm-violations.ts';
import { HostMetrics } from '../../src/host/telemetry/host-metrics.ts';
import { JailMetrics } from '../../src/host/telemetry/jail-metrics.ts';
import { type Bridge, createBridge } from '../../src/inference/bridge/bridge.ts';
import type { TakeTraces } from '../../src/inference/bridge/guest-traces.ts';
import type { ControlPlane } from '../../src/sandbox/contract/control.ts';
import { type Answered, call } from './bridge-fixture.ts';
import { FakeHost } from './fake-host.ts';
import { homeParts } from './home-parts.ts';
import { type MockUpstream, startMockUpstream } from './mock-upstream.ts';

export const METRICS_KEY = 'key-of-this-test';

export interface MetricsWorld extends AsyncDisposable {
  readonly host: FakeHost;
  readonly metrics: HostMetrics;
  readonly server: ApiServer;
  readonly bridge: Bridge;
  readonly upstream: MockUpstream;
  /** The result of a scrape with the key. */
  scrape(headers?: Record<string, string>): Promise<{ status: number; type: string; text: string }>;
  /** The socket of a guest's model port. */
  guestSocket(sandboxId: string): Promise<string>;
  /** Sends a model request of a guest. */
  infer(body: object): Promise<Answered>;
}

export async function openMetricsWorld(
  options: {
    readonly openMetrics?: boolean;
    readonly tracer?: Tracer;
    readonly takeTraces?: TakeTraces;
    /** Replaces the host's control plane for the server. */
    readonly control?: (control: ControlPlane) => ControlPlane;
    readonly log?: Log;
  } = {},
): Promise<MetricsWorld> {
  const cleanup = new CleanupStack();
  const dir = await mkdtemp(join(tmpdir(), 'nv-metrics-'));
  cleanup.push('directory', () => rm(dir, { recursive: true }));
  const metrics = new HostMetrics(systemClock, dir);
  const { tracer = passiveTracer() } = options;
  const host = await FakeHost.open({ watch: (sandbox) => metrics.watch(sandbox), tracer });
  cleanup.push('host', () => host[Symbol.asyncDispose]());
  metrics.addControl(host.control, host.queue, { isCordoned: false });
  const upstream = await startMockUpstream();
  cleanup.push('upstream', () => upstream.close());
  const limits = { requests: 1000, windowMs: 3_600_000 };
  const budgets = await ModelBudgets.open({
    homeDir: dir,
    clock: systemClock,
    log: silentLog,
    tenants: { get: unset, list: () => [{ ...unset('acme'), modelBudget: limits }] },
    host: { get: () => ({ modelBudget: limits }) },
  });
  cleanup.push('budgets', () => budgets[Symbol.asyncDispose]());
  const refusals = new QuotaRefusals();
  const failures = auditFailuresMetric();
  const audit = await AuditLog.open({ homeDir: dir, clock: systemClock, log: silentLog, failures });
  cleanup.push('audit log', () => audit[Symbol.asyncDispose]());
  metrics.registry.add(...budgets.metrics(), refusals.metric, failures);
  const bridge = createBridge({
    sharedBudgets: { of: (tenant) => budgets.of(tenant), used: budgets.used },
    upstream: () => Promise.resolve({ ...upstream.target, slots: 4 }),
    clock: systemClock,
    log: silentLog,
    tracer,
    takeTraces: options.takeTraces,
    onUsage: (usage) => metrics.noteUsage(usage),
  });
  cleanup.push('bridge', () => bridge.close());
  metrics.registry.add(...bridge.metrics());
  const probes = new KernelProbes({ probes: null, home: { cacheDir: dir }, log: silentLog });
  metrics.registry.add(...probes.metrics());
  metrics.registry.add(...new JailMetrics('enforced', () => metrics.vmmPids()).list());
  const violations = { clock: systemClock, log: silentLog, vmm: 'qemu', source: null };
  metrics.registry.add(...new VmmViolations(violations).metrics);
  metrics.registry.add(spansMetric(() => ({ exported: 0, dropped: 0, failed: 0 })));
  const packages = createPackageGateway({
    indexes: async () => ({}),
    cacheDir: dir,
    isPublic: () => false,
    clock: systemClock,
    log: silentLog,
  });
  cleanup.push('packages', () => packages.close());
  metrics.registry.add(...packages.metrics());
  const packagePath = join(dir, 'guest_1026');
  await packages.attach({ sandboxId: 'guest', socketPath: packagePath, policy: null });
  await refusedPackage(packagePath);
  const guestSocket = async (sandboxId: string): Promise<string> => {
    const path = join(dir, `${sandboxId}_1025`);
    await bridge.attach({ sandboxId, socketPath: path });
    return path;
  };
  const socketPath = await guestSocket('guest');
  const server = await createApiServer({
    log: silentLog,
    apiKey: METRICS_KEY,
    ...options,
    ...homeParts(dir),
    control: options.control?.(host.control) ?? host.control,
    metrics: metrics.registry,
    loads: () => metrics.loads(),
  });
  cleanup.push('server', () => server.close());
  return {
    host,
    metrics,
    server,
    bridge,
    upstream,
    guestSocket,
    scrape: async (headers = { authorization: `Bearer ${METRICS_KEY}` }) => {
      const url = '/metrics';
      const answer = await server.app.inject({ url, headers: { host: '127.0.0.1', ...headers } });
      const type = String(answer.headers['content-type']);
      return { status: answer.statusCode, type, text: answer.body };
    },
    infer: (body) => call(socketPath, '/v1/chat/completions', body),
    [Symbol.asyncDispose]: () => cleanup.run(),
  };
}

/** A fetch that is counted. */
function refusedPackage(socketPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const path = `/pypi/files/${'0'.repeat(64)}/demo-1.0-py3-none-any.whl`;
    const sent = request({ socketPath, path, agent: false }, (answer) => {
      answer.resume();
      answer.once('end', resolve);
    });
    sent.once('error', reject);
    sent.end();
  });
}
