/**
 * Opens the mechanisms in their order, once per process.
 *
 *     config ─► home, artifacts, driver ─┐
 *     vsock worker, bridge, engine ──────┴─► RuntimeParts
 */
import { CleanupStack } from '../../base/cleanup.ts';
import { systemClock } from '../../base/clock.ts';
import type { Config } from '../../base/config.ts';
import { type Home, resolveHome } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import type { Progress } from '../../base/progress.ts';
import type { GuestTraces } from '../../base/trace/guest-traces.ts';
import type { Tracer } from '../../base/trace/trace.ts';
import type { HostNetwork } from '../../egress/net/lease/lease.ts';
import { createPackageGateway, type IndexSet, type PackageGateway } from '../../egress/packages/gateway.ts';
import { hostFiles } from '../../egress/packages/host/host-files.ts';
import { readIndexes } from '../../egress/packages/host/indexes.ts';
import {
  type Bridge,
  type BridgeOptions,
  createBridge,
  type RequestLog,
  type SharedBudgetOptions,
  type UsageRecord,
} from '../../inference/bridge/bridge.ts';
import type { VmmDriver } from '../../machine/vmm/driver.ts';
import type { Launch } from '../../machine/vmm/launch.ts';
import { createVsockHost } from '../../machine/vsock/host.ts';
import { closeAllOnExec } from '../../sys/close-on-exec.ts';
import { warmSparseThreads } from '../../sys/sparse-threads.ts';
import { KernelProbes } from '../probes/kernel-probes.ts';
import { VmmMemory } from '../probes/vmm-memory.ts';
import { openViolations, type VmmViolations } from '../probes/vmm-violations.ts';
import { HostMetrics } from '../telemetry/host-metrics.ts';
import { JailMetrics } from '../telemetry/jail-metrics.ts';
import { makeDriver } from './driver.ts';
import { withFirecracker } from './firecracker/binary.ts';
import { type Confinement, checkJail } from './jail.ts';
import { KeptVms, readKept } from './kept-vms.ts';
import { RuntimeTape } from './model-servers/tape.ts';
import type { BuildReadyMade } from './named-templates/ready-made.ts';
import { Network, openKernelNetwork } from './network.ts';
import { openCloneRam } from './ram/clone-ram.ts';
import type { CloneRam } from './ram/parts.ts';
import { type Artifacts, ensureArtifacts, type SetupOptions, setupContext } from './setup.ts';
import { openTracing } from './tracing.ts';
import { chooseUpstream, type Upstream } from './upstream.ts';
import { decideVmm } from './vmm-choice.ts';
import { type ProcessRef, reclaim } from './workspace.ts';

export interface RuntimeOptions extends Pick<SetupOptions, 'modelLater'> {
  readonly config: Config;
  readonly progress: Progress;
  readonly log: Log;
  /** Cancels the set-up. */
  readonly signal: AbortSignal;
  /** A GGUF file for the engine instead of the small model that set-up fetches. */
  readonly modelPath?: string | undefined;
  readonly onUsage?: (usage: UsageRecord) => void;
  /** Budgets for models that sandboxes share. Default: none. */
  readonly sharedBudgets?: SharedBudgetOptions | undefined;
  /** Memory for answers that equal requests get again, in bytes. Default: the bridge's. */
  readonly modelCacheBytes?: number | undefined;
  /** In place of the cassette of `config`; its owner reports. */
  readonly tape?: RuntimeTape | undefined;
  /** Gets records of requests to models. */
  readonly requestLog?: RequestLog | undefined;
  /** True: a daemon, which runs the configured kernel probes. */
  readonly observes?: boolean;
  /** Starts this process again if it is killed, so that VMs are kept for it. Default: none. */
  readonly keeper?: ProcessRef | null | undefined;
  /** True: no model is fetched, since none will be requested. */
  readonly withoutModel?: boolean;
  /** Opens the host's network for the first sandbox that needs one. Default: the kernel's. */
  readonly openNetwork?: () => Promise<HostNetwork>;
  /** Where sandboxes' packages come from. Default: the indexes that the host's own clients use. */
  readonly packageIndexes?: (() => Promise<IndexSet>) | undefined;
  /** What builds ready-made environments. Default: there are none. */
  readonly buildReadyMade?: BuildReadyMade | undefined;
  /** For benchmarks: another kernel, which sandboxes can only boot. */
  readonly kernelPath?: string;
  /** For benchmarks: changes the launch of QEMU. */
  readonly aroundLaunch?: (launch: Launch) => Launch;
}

/** The owners of sandboxes. */
export interface Owners extends Required<Pick<BridgeOptions, 'tenantOf' | 'cacheScopeOf' | 'modelsOf'>> {
  /** Whether the host's login at a package index serves a sandbox. */
  readonly mayLogIn: (sandboxId: string, host: string) => boolean;
}

export interface RuntimeParts {
  readonly home: Home;
  readonly driver: VmmDriver;
  /** One clause for people: why this VMM. */
  readonly vmmReason: string;
  readonly confinement: Confinement;
  readonly vmmMemory: VmmMemory;
  readonly probes: KernelProbes;
  readonly violations: VmmViolations;
  readonly artifacts: Artifacts;
  readonly upstream: Upstream;
  readonly bridge: Bridge;
  readonly packages: PackageGateway;
  readonly network: Network;
  readonly metrics: HostMetrics;
  readonly tracer: Tracer;
  readonly guestTraces: GuestTraces | null;
  readonly ram: CloneRam;
  /** VMs of a killed process; null: this one takes none over, and its own end with it. */
  readonly kept: KeptVms | null;
  /** Null: models are asked, and nothing is recorded. */
  readonly tape: RuntimeTape | null;
  readonly usageListeners: Set<(usage: UsageRecord) => void>;
  readonly owners: Owners;
  /** Closes all of them, in reverse order. */
  readonly cleanup: CleanupStack;
}

/** What the steps of the composition share. */
interface Composing {
  readonly options: RuntimeOptions;
  readonly config: Config;
  readonly home: Home;
  readonly log: Log;
  readonly cleanup: CleanupStack;
}

/** Sets the machine up if needed, reclaims what a killed process left, and chooses the VMM and the model server. */
export async function composeParts(options: RuntimeOptions): Promise<RuntimeParts> {
  const { log } = options;
  const home = resolveHome(options.config.home);
  const config = await withFirecracker(options.config, home);
  const cleanup = new CleanupStack();
  try {
    return await compose({ options, config, home, log, cleanup });
  } catch (error) {
    await cleanup.run();
    throw error;
  }
}

async function compose(composing: Composing): Promise<RuntimeParts> {
  const { options, config, home, log, cleanup } = composing;
  const { modelPath, withoutModel = false, modelLater = false } = options;
  const cassette = withoutModel ? null : config.cassette;
  const tape = options.tape ?? (await RuntimeTape.open(cassette, log));
  // Descriptors inherited from our parent must not reach programs that we start.
  closeAllOnExec();
  // Started early, so that the first clone does not wait for it.
  warmSparseThreads();
  const allKept = await readKept(home.runDir);
  await reclaim(home.runDir, log, allKept);
  const { keeper = null } = options;
  const kept = keeper === null ? null : await KeptVms.open(keeper, home.runDir, allKept, log);
  cleanup.push('VMs of the process before', () => kept?.close());
  const choice = await decideVmm({ config, home, log });
  const { confined } = choice;
  if (confined !== undefined) cleanup.push('jail', () => confined.confinement.close());
  await checkJail(config, choice.vmm);
  const upstream = tape?.upstream ?? (await chooseUpstream({ ...home, config, modelPath, log }));
  cleanup.push('engine', () => upstream.close());
  const wanted = { withModel: upstream.needsModel && !withoutModel, modelLater };
  const prepared = await ensureArtifacts(setupContext(options, home), wanted);
  cleanup.push('artifacts', () => prepared.release());
  const artifacts = { ...prepared, kernelPath: options.kernelPath ?? prepared.kernelPath };
  const { vmmMemory, ...made } = await openDriver(composing, choice);
  const violations = openViolations(made.driver.name, log);
  cleanup.push('records of the kernel', async () => violations.close());
  const metrics = new HostMetrics(systemClock, home.dir);
  const jailMetrics = new JailMetrics(made.confinement.state, () => metrics.vmmPids());
  metrics.registry.add(...jailMetrics.list());
  const traces = openTracing(config, log);
  cleanup.push('traces', () => traces.close());
  metrics.registry.add(...traces.metrics, ...violations.metrics);
  const { tracer, guests: guestTraces } = traces;
  const models = openBridge(composing, { upstream, artifacts, metrics, tracer, guestTraces, tape });
  const packages = createPackageGateway({
    indexes: options.packageIndexes ?? (() => readIndexes(hostFiles(process.env), config.packageHosts)),
    cacheDir: home.cacheDir,
    clock: systemClock,
    log,
  });
  cleanup.push('packages', () => packages.close());
  metrics.registry.add(...packages.metrics());
  const { probes, network } = openProbesAndNetwork(composing, metrics);
  const driver = jailMetrics.watchStarts(made.driver);
  const ram = openCloneRam(driver, home.runDir);
  cleanup.push('shared RAM', () => ram.close());
  const { confinement } = made;
  const machine = { home, driver, vmmReason: choice.reason, confinement, vmmMemory, artifacts, ram, kept };
  return {
    ...machine,
    ...models,
    upstream,
    packages,
    network,
    violations,
    probes,
    metrics,
    tracer,
    guestTraces,
    tape,
    cleanup,
  };
}

async function openDriver(
  { options, config, home, log, cleanup }: Composing,
  choice: Awaited<ReturnType<typeof decideVmm>>,
): Promise<Pick<RuntimeParts, 'driver' | 'confinement' | 'vmmMemory'>> {
  const vsock = createVsockHost({ log });
  cleanup.push('vsock worker', () => vsock.close());
  const vmmMemory = new VmmMemory(systemClock);
  const { aroundLaunch, keeper = null } = options;
  const made = await makeDriver({ choice, config, home, log, vsock, memory: vmmMemory, keeper, aroundLaunch });
  const { driver, confinement } = made;
  if (choice.confined === undefined) cleanup.push('jail', () => confinement.close());
  cleanup.push('driver', async () => driver.close?.());
  return { driver, confinement, vmmMemory };
}

type ModelParts = Pick<RuntimeParts, 'upstream' | 'artifacts' | 'metrics' | 'tracer' | 'guestTraces' | 'tape'>;

function openBridge(
  { options, config, log, cleanup }: Composing,
  { upstream, artifacts, metrics, tracer, guestTraces, tape }: ModelParts,
): Pick<RuntimeParts, 'bridge' | 'usageListeners' | 'owners'> {
  const usageListeners = new Set([(record: UsageRecord) => metrics.noteUsage(record)]);
  if (options.onUsage !== undefined) usageListeners.add(options.onUsage);
  const owners: Owners = {
    tenantOf: () => null,
    cacheScopeOf: () => null,
    modelsOf: () => undefined,
    mayLogIn: () => true,
  };
  // Once the bridge is closed, all answers have ended.
  cleanup.push('cassette', () => tape?.close(upstream.defaultModel));
  const bridge = createBridge({
    upstream: upstream.source(artifacts.model),
    clock: systemClock,
    log,
    tracer,
    takeTraces: guestTraces === null ? undefined : (id, body) => guestTraces.take(id, body),
    onUsage: (record) => {
      for (const listener of usageListeners) listener(record);
    },
    tenantOf: (id) => owners.tenantOf(id),
    cacheScopeOf: (id) => owners.cacheScopeOf(id),
    modelsOf: (tenant) => owners.modelsOf(tenant),
    tape: tape?.tape,
    sharedBudgets: options.sharedBudgets,
    cacheBytes: options.modelCacheBytes,
    requestLog: options.requestLog,
    content: config.auditContent,
  });
  cleanup.push('bridge', () => bridge.close());
  metrics.registry.add(...bridge.metrics());
  return { bridge, usageListeners, owners };
}

function openProbesAndNetwork(
  { options, config, home, log, cleanup }: Composing,
  metrics: HostMetrics,
): Pick<RuntimeParts, 'probes' | 'network'> {
  const kinds = options.observes === true ? config.probes : null;
  const probes = new KernelProbes({ probes: kinds, home, log });
  cleanup.push('probes', () => probes.close());
  metrics.registry.add(...probes.metrics());
  metrics.addLoads((id, pid) => probes.loadOf(id, pid));
  probes.start();
  const network = new Network({
    open: options.openNetwork ?? (() => openKernelNetwork(config, log)),
    watchCard: (id, card) => probes.packets.watch(id, card),
    watchLease: (lease) => metrics.watchLease(lease),
  });
  cleanup.push('network', () => network.close());
  return { probes, network };
}
