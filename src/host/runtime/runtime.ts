/**
 * The composition root: joins the mechanisms into one running product for the CLI, the library and the daemon.
 *
 *     config ─► home, artifacts, driver ─┐
 *     vsock worker, bridge, engine ──────┴─► parts ─► one supervisor per sandbox
 *
 * Parts start when they are first needed; `close` releases them in reverse order.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { createOverlay } from '../../artifacts/image/overlay.ts';
import { READY_MADE } from '../../artifacts/ready-made.ts';
import { CleanupStack } from '../../base/cleanup.ts';
import { systemClock } from '../../base/clock.ts';
import type { Config } from '../../base/config.ts';
import { CodedError } from '../../base/errors.ts';
import { type Home, resolveHome } from '../../base/home.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import type { Progress } from '../../base/progress.ts';
import type { BudgetUse } from '../../base/request/model-limits.ts';
import type { GuestTraces } from '../../base/trace/guest-traces.ts';
import type { Tracer } from '../../base/trace/trace.ts';
import type { HostNetwork } from '../../egress/net/lease/lease.ts';
import type { IndexSet, PackageGateway } from '../../egress/packages/gateway.ts';
import {
  type Bridge,
  createBridge,
  type RequestLog,
  type SharedBudgetOptions,
  type UsageRecord,
} from '../../inference/bridge/bridge.ts';
import { listenForGuest } from '../../machine/guest/link.ts';
import type { VmmDriver } from '../../machine/vmm/driver.ts';
import type { Launch } from '../../machine/vmm/launch.ts';
import { createVsockHost } from '../../machine/vsock/host.ts';
import type { CreateRequest, PoolMembers } from '../../sandbox/contract/control.ts';
import type { EnvironmentSource } from '../../sandbox/contract/environment.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { SandboxParts } from '../../sandbox/contract/parts.ts';
import {
  makeSpec,
  type ResolvedOptions,
  type SandboxOptions,
  type SandboxSpec,
  type StartCommand,
  type TemplateSpec,
  withDefaultModel,
} from '../../sandbox/contract/spec.ts';
import { checkStart } from '../../sandbox/start/start-program.ts';
import { canBeCloned, type NamedTemplate, needsCard } from '../../sandbox/start/template.ts';
import { Supervisor } from '../../sandbox/vm/supervisor.ts';
import { closeAllOnExec } from '../../sys/close-on-exec.ts';
import { warmSparseThreads } from '../../sys/sparse-threads.ts';
import { KernelProbes } from '../probes/kernel-probes.ts';
import { VmmMemory } from '../probes/vmm-memory.ts';
import { openViolations, type VmmViolations } from '../probes/vmm-violations.ts';
import { HostMetrics } from '../telemetry/host-metrics.ts';
import { JailMetrics } from '../telemetry/jail-metrics.ts';
import { CidPool } from './cid.ts';
import { makeDriver } from './driver.ts';
import { withFirecracker } from './firecracker/binary.ts';
import type { Images, ImagesContext } from './images.ts';
import { type Confinement, checkJail } from './jail.ts';
import { RuntimeTape } from './model-servers/tape.ts';
import { TemplateNames } from './named-templates/names.ts';
import { type BuildReadyMade, readyMadeTemplate } from './named-templates/ready-made.ts';
import { checkNamedRequest, withTemplate } from './named-templates/request.ts';
import { checkRequirements, hasDefaults, templateSpec, withoutTemplates } from './named-templates/spec.ts';
import { Network, openKernelNetwork, parseEgress } from './network.ts';
import { openPackages } from './packages.ts';
import { openCloneRam } from './ram/clone-ram.ts';
import { makeMemory } from './ram/memory.ts';
import type { CloneRam } from './ram/parts.ts';
import { type Artifacts, ensureArtifacts, type SetupOptions, setupContext } from './setup.ts';
import { type Template, Templates } from './templates.ts';
import { GUEST_TRACES_ENV, openTracing } from './tracing.ts';
import { bridgePolicy, chooseUpstream, type Upstream } from './upstream.ts';
import { decideVmm } from './vmm-choice.ts';
import { inferenceSocket, makeWorkspace, packageSocket, reclaim } from './workspace.ts';

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

/** Long enough for a first boot in software emulation on a busy machine. */
const HELLO_TIMEOUT_MS = 60_000;

type Owners = Record<'tenantOf' | 'cacheScopeOf', (sandboxId: string) => string | null>;

export class Runtime {
  readonly home: Home;
  readonly driver: VmmDriver;
  /** One clause for people: why this VMM. */
  readonly vmmReason: string;
  readonly confinement: Pick<Confinement, 'description' | 'gaps'>;
  readonly artifacts: Artifacts;
  readonly upstream: Upstream;
  readonly templates: Templates;
  readonly network: Network;
  readonly metrics: HostMetrics;
  readonly tracer: Tracer;
  readonly ram: CloneRam;
  /** Null: models are asked, and nothing is recorded. */
  readonly tape: RuntimeTape | null;
  /** Hosts of webhooks that may have private addresses. */
  readonly webhookHosts: readonly string[];
  readonly #guestTraces: GuestTraces | null;
  readonly #options: RuntimeOptions;
  readonly #bridge: Bridge;
  readonly #packages: PackageGateway;
  readonly #vmmMemory: VmmMemory;
  readonly #probes: KernelProbes;
  readonly #violations: VmmViolations;
  readonly #cids = new CidPool(randomInt(1 << 30));
  readonly #sandboxes = new Set<Supervisor>();
  readonly #cleanup: CleanupStack;
  #images: Images | undefined;
  readonly #usageListeners: Set<(usage: UsageRecord) => void>;
  readonly #owners: Owners;

  private constructor(
    options: RuntimeOptions,
    made: {
      home: Home;
      driver: VmmDriver;
      vmmReason: string;
      confinement: Confinement;
      vmmMemory: VmmMemory;
      probes: KernelProbes;
      violations: VmmViolations;
      artifacts: Artifacts;
      upstream: Upstream;
      bridge: Bridge;
      packages: PackageGateway;
      network: Network;
      metrics: HostMetrics;
      tracer: Tracer;
      guests: GuestTraces | null;
      ram: CloneRam;
      cleanup: CleanupStack;
      usageListeners: Set<(usage: UsageRecord) => void>;
      owners: Owners;
      tape: RuntimeTape | null;
    },
  ) {
    this.#options = options;
    this.home = made.home;
    this.webhookHosts = options.config.webhookHosts;
    this.driver = made.driver;
    this.vmmReason = made.vmmReason;
    this.confinement = made.confinement;
    this.#vmmMemory = made.vmmMemory;
    this.#probes = made.probes;
    this.#violations = made.violations;
    this.artifacts = made.artifacts;
    this.upstream = made.upstream;
    this.network = made.network;
    this.metrics = made.metrics;
    this.tracer = made.tracer;
    this.#guestTraces = made.guests;
    this.#bridge = made.bridge;
    this.#packages = made.packages;
    this.#cleanup = made.cleanup;
    this.#usageListeners = made.usageListeners;
    this.#owners = made.owners;
    this.tape = made.tape;
    this.ram = made.ram;
    const templateParts = {
      ...this.#parts(),
      env: this.#cpuEnv(),
      hostCpus: availableParallelism(),
      ram: made.ram,
      packageIndex: () => made.packages.indexDigest('pip'),
    };
    const context = setupContext(options, made.home);
    const names = new TemplateNames(made.home.dir);
    this.templates = new Templates(context, made.artifacts, templateParts, names);
  }

  /**
   * Sets the machine up if needed, reclaims what a killed process left, and chooses the VMM and the model server.
   */
  static async open(options: RuntimeOptions): Promise<Runtime> {
    const { log } = options;
    const home = resolveHome(options.config.home);
    const config = await withFirecracker(options.config, home);
    const cleanup = new CleanupStack();
    try {
      const { modelPath, withoutModel = false, modelLater = false } = options;
      const cassette = withoutModel ? null : config.cassette;
      const tape = options.tape ?? (await RuntimeTape.open(cassette, log));
      // Descriptors inherited from our parent must not reach programs that we start.
      closeAllOnExec();
      // Started early, so that the first clone does not wait for it.
      warmSparseThreads();
      await reclaim(home.runDir, log);
      const choice = await decideVmm({ config, home, log });
      const { confined } = choice;
      if (confined !== undefined) cleanup.push('jail', () => confined.confinement.close());
      await checkJail(config, choice.vmm);
      const upstream = tape?.upstream ?? (await chooseUpstream({ ...home, config, modelPath, log }));
      cleanup.push('engine', () => upstream.close());
      const withModel = upstream.needsModel && !withoutModel;
      const wanted = { withModel, modelLater };
      const prepared = await ensureArtifacts(setupContext(options, home), wanted);
      cleanup.push('artifacts', () => prepared.release());
      const artifacts = { ...prepared, kernelPath: options.kernelPath ?? prepared.kernelPath };
      const vsock = createVsockHost({ log });
      cleanup.push('vsock worker', () => vsock.close());
      const vmmMemory = new VmmMemory(systemClock);
      const made = await makeDriver({
        choice,
        config,
        home,
        log,
        vsock,
        memory: vmmMemory,
        aroundLaunch: options.aroundLaunch,
      });
      const { confinement } = made;
      if (confined === undefined) cleanup.push('jail', () => confinement.close());
      cleanup.push('driver', async () => made.driver.close?.());
      const violations = openViolations(made.driver.name, log);
      cleanup.push('records of the kernel', async () => violations.close());
      const metrics = new HostMetrics(systemClock);
      const jailMetrics = new JailMetrics(confinement.state, () => metrics.vmmPids());
      metrics.registry.add(...jailMetrics.list());
      const traces = openTracing(config, log);
      cleanup.push('traces', () => traces.close());
      metrics.registry.add(...traces.metrics, ...violations.metrics);
      const { tracer, guests } = traces;
      const usageListeners = new Set([(record: UsageRecord) => metrics.noteUsage(record)]);
      if (options.onUsage !== undefined) usageListeners.add(options.onUsage);
      const owners: Owners = { tenantOf: () => null, cacheScopeOf: () => null };
      // Once the bridge is closed, all answers have ended.
      cleanup.push('cassette', () => tape?.close(upstream.defaultModel));
      const bridge = createBridge({
        upstream: upstream.source(artifacts.model),
        clock: systemClock,
        log,
        tracer,
        takeTraces: guests === null ? undefined : (id, body) => guests.take(id, body),
        onUsage: (record) => {
          for (const listener of usageListeners) listener(record);
        },
        tenantOf: (id) => owners.tenantOf(id),
        cacheScopeOf: (id) => owners.cacheScopeOf(id),
        tape: tape?.tape,
        sharedBudgets: options.sharedBudgets,
        cacheBytes: options.modelCacheBytes,
        requestLog: options.requestLog,
        content: config.auditContent,
      });
      cleanup.push('bridge', () => bridge.close());
      metrics.registry.add(...bridge.metrics());
      const packages = openPackages({ home, log, fileHosts: config.packageHosts, indexes: options.packageIndexes });
      cleanup.push('packages', () => packages.close());
      metrics.registry.add(...packages.metrics());
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
      const driver = jailMetrics.watchStarts(made.driver);
      const ram = openCloneRam(driver, home.runDir);
      cleanup.push('shared RAM', () => ram.close());
      return new Runtime(options, {
        home,
        driver,
        vmmReason: choice.reason,
        confinement,
        vmmMemory,
        artifacts,
        upstream,
        bridge,
        packages,
        network,
        violations,
        probes,
        metrics,
        tracer,
        guests,
        ram,
        cleanup,
        usageListeners,
        owners,
        tape,
      });
    } catch (error) {
      await cleanup.run();
      throw error;
    }
  }

  /**
   * What the template that a request names is made of, and the request with that.
   * @throws SandboxError `not_found`, `spec_invalid`: the request wants something else
   */
  async fromNamedTemplate(
    name: string,
    request: CreateRequest,
  ): Promise<{ readonly request: CreateRequest; readonly named: NamedTemplate }> {
    checkNamedRequest(request);
    const named = await this.#named(name);
    const requirements = checkRequirements(request.requirements ?? []);
    return { request: withTemplate(named, { ...request, requirements }), named };
  }

  /**
   * The template for a sandbox; null: it boots. The default template, that of an image, one with packages, and a named
   * one are built if they are missing.
   * @param named what the template that the request names is made of
   * @throws SandboxError, ImageError
   */
  async templateFor(
    options: SandboxOptions,
    image?: EnvironmentSource | undefined,
    named: TemplateSpec | null = null,
  ): Promise<Template | null> {
    const isWanted = named !== null || (options.requirements ?? []).length > 0;
    if (!canBeCloned(options) || !this.templates.supported) {
      if (isWanted) throw withoutTemplates(this.driver, options);
      return null;
    }
    const card = needsCard(options, this.driver.capabilities);
    const spec = named === null ? templateSpec({ ...options, card }, image) : { ...named, ...(card ? { card } : {}) };
    const isBuilt = hasDefaults(spec) || isWanted;
    if (!isBuilt && !(await this.templates.has(spec))) return null;
    return await this.templates.prepare(spec, image);
  }

  /**
   * Builds the template if it is missing. `card` is ignored if the VMM can plug a card into any clone.
   * @param start the program that runs in every clone
   * @throws SandboxError, ImageError
   */
  async prepareTemplate(members: PoolMembers, start?: StartCommand): Promise<Template> {
    const { card = false, image: name, template } = members;
    const { signal } = this.#options;
    const wanted = card && !this.driver.capabilities.hotplugNic;
    // Also for a template that exists: without a network, no clone of it can start.
    if (wanted) await this.network.open();
    if (template !== undefined) return await this.#prepareNamed(template, members, wanted);
    const image = name === undefined ? undefined : await this.resolveImage(name, signal);
    const program = start === undefined ? {} : { start: checkStart(start) };
    const spec = { ...templateSpec({ ...members, card: wanted }, image), ...program };
    return await this.templates.prepare(spec, image);
  }

  /**
   * Finds the image, or pulls it.
   * @param image as `image pull` takes it; a path is relative to this process's directory
   * @throws SandboxError `image_failed`
   */
  async resolveImage(image: string, signal: AbortSignal): Promise<EnvironmentSource> {
    const { resolveEnvironment } = await import('./images.ts');
    const { log } = this.#options;
    return await resolveEnvironment(await this.#openImages(), image, {
      signal,
      log,
      readsHost: this.#options.observes !== true,
    });
  }

  async #openImages(): Promise<Images> {
    // Loaded only here: most sandboxes have no image.
    const { openImages } = await import('./images.ts');
    // One object, so that equal pulls of this process are done once.
    this.#images ??= openImages(this.#imagesContext());
    return this.#images;
  }

  #imagesContext(): ImagesContext {
    const { config, log, progress, signal } = this.#options;
    const quotaBytes = config.imageQuotaBytes;
    return { home: this.home, progress, signal, log, quotaBytes, runtime: async () => this };
  }

  /** A ready-made environment is built at its first use. @throws SandboxError, DockerfileError, OciError, ImageError */
  async #named(name: string): Promise<NamedTemplate> {
    const { names } = this.templates;
    const { buildReadyMade, log } = this.#options;
    if (!READY_MADE.has(name) || buildReadyMade === undefined) return await names.get(name);
    return await readyMadeTemplate(name, {
      systemDigest: this.artifacts.rootImageDigest,
      names,
      keep: (...made) => this.templates.setReadyMade(...made),
      build: async () => {
        const { environmentSource, imageFailure } = await import('./images.ts');
        try {
          const built = await buildReadyMade(this.#imagesContext(), await this.#openImages(), name);
          return environmentSource(built, name, log);
        } catch (error) {
          throw error instanceof CodedError ? imageFailure(name, error) : error;
        }
      },
    });
  }

  async #prepareNamed(name: string, members: PoolMembers, card: boolean): Promise<Template> {
    const named = await this.#named(name);
    const requirements = checkRequirements(members.requirements ?? []);
    withTemplate(named, { ...members, requirements });
    return await this.templates.prepare({ ...named.spec, ...(card ? { card } : {}) }, named.image);
  }

  /**
   * Starts one VM with its supervisor and no control plane: for benchmarks and proofs of what lies below that.
   * @param replace parts to use instead of the product's own, for example a template's
   */
  async startVm(
    options: SandboxOptions,
    signal?: AbortSignal,
    replace: Partial<SandboxParts> = {},
  ): Promise<Supervisor> {
    const supervisor = this.prepareVm(options, replace);
    await supervisor.start(signal);
    return supervisor;
  }

  /** Like `startVm`, not started. */
  prepareVm(options: SandboxOptions, replace: Partial<SandboxParts> = {}): Supervisor {
    return this.supervise(this.makeSpec(options), replace);
  }

  /** Fills in this host's defaults. @throws SandboxError `spec_invalid` */
  makeSpec(options: ResolvedOptions): SandboxSpec {
    requireBalloon(this.driver, options);
    const models = withDefaultModel(options.models, this.upstream.defaultModel);
    const traces = this.tracer.isRecording ? GUEST_TRACES_ENV : {};
    const env = { ...this.#cpuEnv(), ...traces, ...options.env };
    return makeSpec({ ...options, env, models }, availableParallelism(), parseEgress);
  }

  /** Returns a supervisor that is not started. */
  supervise(spec: SandboxSpec, replace: Partial<SandboxParts> = {}): Supervisor {
    const sandbox = new Supervisor(spec, { ...this.#parts(), ...replace });
    this.#sandboxes.add(sandbox);
    this.metrics.watch(sandbox);
    void sandbox.ended.then(() => {
      this.#sandboxes.delete(sandbox);
      this.#guestTraces?.forget(spec.id);
      if (sandbox.vm?.pid != null) this.#probes.syscalls.end(sandbox.vm.pid);
    });
    return sandbox;
  }

  /** What was used of a budget for models; null: nothing is known of the account. */
  modelUse(account: string): BudgetUse | null {
    return this.#bridge.budgetUse(account);
  }

  /** Calls `listener` after each request to the model. */
  onUsage(listener: (usage: UsageRecord) => void): void {
    this.#usageListeners.add(listener);
  }

  /** Shares model servers among the tenants of sandboxes from now on. Before: all are the operator's. */
  setOwners(owners: Owners): void {
    Object.assign(this.#owners, owners);
  }

  /** Starts the built-in model server ahead of the first request, which reports failures. */
  warmUpstream(): void {
    this.upstream.warm(this.artifacts.model).catch((error: unknown) => ignore(error, 'reported by the first request'));
  }

  /** Stops every sandbox and every part. Idempotent. */
  async close(): Promise<void> {
    await Promise.all([...this.#sandboxes].map((sandbox) => sandbox.stop()));
    await this.#cleanup.run();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Emulated processors report no cache size, and OpenBLAS (NumPy) would warn about it on stderr. */
  #cpuEnv(): Readonly<Record<string, string>> {
    return this.driver.accelerator === 'tcg' ? { OPENBLAS_L2_SIZE: '256' } : {};
  }

  #parts(): SandboxParts {
    const { log, config } = this.#options;
    return {
      driver: this.driver,
      kernelPath: this.artifacts.kernelPath,
      rootImagePath: this.artifacts.rootImagePath,
      makeWorkspace: (spec) => makeWorkspace(this.home.runDir, spec.id),
      makeOverlay: (target, sizeBytes) => createOverlay(this.artifacts.overlayTemplatePath, target, sizeBytes),
      makeMemory,
      allocateCid: () => this.#cids.allocate(),
      listenForGuest: (channelPath, identity) =>
        listenForGuest({
          channelPath,
          identity,
          helloTimeoutMs: HELLO_TIMEOUT_MS,
          clock: systemClock,
          entropy: () => randomBytes(64),
          log,
        }),
      attachBridge: async (sandboxId, channelPath, models, account = { id: sandboxId }) => {
        const socketPath = inferenceSocket(channelPath);
        const policy = bridgePolicy(models, config);
        const port = await this.#bridge.attach({ sandboxId, socketPath, policy, account });
        return {
          setModels: (changed) => port.setPolicy(bridgePolicy(changed, config)),
          inFlight: () => port.stats().inFlight,
          setSuspended: (isSuspended) => port.setSuspended(isSuspended),
          close: () => port.close(),
        };
      },
      attachPackages: (sandboxId, channelPath, policy, onFetch) =>
        this.#packages.attach({ sandboxId, socketPath: packageSocket(channelPath), policy, onFetch }),
      hostMemory: (vmmPid, id) => this.#probes.watchVmm(id, vmmPid, this.#vmmMemory.watch(vmmPid)),
      hostViolations: (vmmPid) => this.#violations.watch(vmmPid),
      leaseNetwork: (id, network, secrets) => this.network.lease(id, network, secrets),
      clock: systemClock,
      log,
      tracer: this.tracer,
    };
  }
}

/** @throws SandboxError `spec_invalid`: this driver cannot change a VM's memory */
function requireBalloon({ capabilities, name }: VmmDriver, options: SandboxOptions): void {
  if (options.memoryMaxMib === undefined || capabilities.balloon === true) return;
  const why = `not supported by this driver (${name})`;
  throw new SandboxError('spec_invalid', `sandbox option memoryMaxMib: ${why}`, {
    remedy: 'omit it, and choose memoryMib as large as needed',
  });
}
