/**
 * The composition root: joins the mechanisms into one running product for the CLI, the library and the daemon.
 *
 *     compose.ts ─► RuntimeParts ─► one supervisor per sandbox
 *
 * Parts start when they are first needed; `close` releases them in reverse order.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { createOverlay } from '../../artifacts/image/overlay.ts';
import { systemClock } from '../../base/clock.ts';
import type { Config } from '../../base/config.ts';
import type { Home } from '../../base/home.ts';
import { ignore, tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import type { BudgetUse } from '../../base/request/model-limits.ts';
import type { Tracer } from '../../base/trace/trace.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import { listenForGuest } from '../../machine/guest/link.ts';
import { removeGroups } from '../../machine/jail/cgroup.ts';
import type { VmmDriver } from '../../machine/vmm/driver.ts';
import { VmmError } from '../../machine/vmm/errors.ts';
import type { KeptVm } from '../../machine/vmm/kept.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import { withDefaultModel } from '../../sandbox/contract/model-policy.ts';
import type { MadeFrom, SandboxParts } from '../../sandbox/contract/parts.ts';
import { makeSpec, type ResolvedOptions, type SandboxOptions, type SandboxSpec } from '../../sandbox/contract/spec.ts';
import type { VolumeTable } from '../../sandbox/store/volume-table.ts';
import { Supervisor } from '../../sandbox/vm/supervisor.ts';
import { fileIdentity } from '../../sys/fd.ts';
import type { HostMetrics } from '../telemetry/host-metrics.ts';
import { HUNG_MS, LoopWatch } from '../telemetry/loop-watch.ts';
import { CidPool } from './cid.ts';
import { composeParts, type Owners, type RuntimeOptions, type RuntimeParts } from './compose.ts';
import type { Confinement } from './jail.ts';
import { type KeptVms, keptDisk, writeKept } from './kept-vms.ts';
import type { RuntimeTape } from './model-servers/tape.ts';
import { TemplateNames } from './named-templates/names.ts';
import { TemplateSource } from './named-templates/source.ts';
import { type Network, parseEgress } from './network.ts';
import { adoptedMemory, makeMemory } from './ram/memory.ts';
import type { CloneRam } from './ram/parts.ts';
import { type Artifacts, setupContext } from './setup.ts';
import { Templates } from './templates.ts';
import { GUEST_TRACES_ENV } from './tracing.ts';
import { bridgePolicy, type Upstream } from './upstream.ts';
import { adoptWorkspace, inferenceSocket, makeWorkspace, packageSocket } from './workspace.ts';

export type { RuntimeOptions } from './compose.ts';

/** Long enough for a first boot in software emulation on a busy machine. */
const HELLO_TIMEOUT_MS = 60_000;

export class Runtime {
  readonly home: Home;
  readonly driver: VmmDriver;
  readonly vmmReason: string;
  readonly confinement: Pick<Confinement, 'description' | 'gaps'>;
  readonly artifacts: Artifacts;
  readonly upstream: Upstream;
  readonly network: Network;
  readonly metrics: HostMetrics;
  readonly tracer: Tracer;
  readonly ram: CloneRam;
  readonly tape: RuntimeTape | null;
  /** Hosts of webhooks that may have private addresses. */
  readonly webhookHosts: readonly string[];
  /** As configured: saves of sandboxes are encrypted. */
  readonly encrypts: boolean;
  readonly templates: Templates;
  readonly templateSource: TemplateSource;
  readonly #config: Config;
  readonly #log: Log;
  readonly #parts: RuntimeParts;
  readonly #cids = new CidPool(randomInt(1 << 30));
  readonly #sandboxes = new Set<Supervisor>();

  private constructor(options: RuntimeOptions, parts: RuntimeParts) {
    const { home, driver, network, ram, packages } = parts;
    this.#config = options.config;
    this.#log = options.log;
    this.#parts = parts;
    this.home = home;
    this.driver = driver;
    this.vmmReason = parts.vmmReason;
    this.confinement = parts.confinement;
    this.artifacts = parts.artifacts;
    this.upstream = parts.upstream;
    this.network = network;
    this.metrics = parts.metrics;
    this.tracer = parts.tracer;
    this.ram = ram;
    this.tape = parts.tape;
    this.webhookHosts = options.config.webhookHosts;
    this.encrypts = options.config.encrypts;
    const templateParts = {
      ...this.#sandboxParts(),
      env: this.#cpuEnv(),
      hostCpus: availableParallelism(),
      ram,
      packageIndex: () => packages.indexDigest('pip'),
    };
    // VMs that outlive a killed process must not outlive one that ends by itself, however it ends.
    if (parts.kept !== null) process.once('exit', this.#endVms);
    const names = new TemplateNames(home.dir);
    this.templates = new Templates(setupContext(options, home), parts.artifacts, templateParts, names);
    this.templateSource = new TemplateSource({
      options,
      home,
      driver,
      network,
      templates: this.templates,
      runtime: this,
    });
  }

  /** @see composeParts */
  static async open(options: RuntimeOptions): Promise<Runtime> {
    const parts = await composeParts(options);
    try {
      return new Runtime(options, parts);
    } catch (error) {
      await parts.cleanup.run();
      throw error;
    }
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
    requireVolumes(this.driver, options);
    const models = withDefaultModel(options.models, this.upstream.defaultModel);
    const traces = this.tracer.isRecording ? GUEST_TRACES_ENV : {};
    const env = { ...this.#cpuEnv(), ...traces, ...options.env };
    return makeSpec({ ...options, env, models }, availableParallelism(), parseEgress);
  }

  /** Returns a supervisor that is not started. */
  supervise(spec: SandboxSpec, replace: Partial<SandboxParts> = {}): Supervisor {
    const sandbox = new Supervisor(spec, { ...this.#sandboxParts(replace.madeFrom), ...replace });
    this.#sandboxes.add(sandbox);
    this.metrics.watch(sandbox);
    void sandbox.ended.then(() => {
      this.#sandboxes.delete(sandbox);
      this.#parts.guestTraces?.forget(spec.id);
      if (sandbox.vm?.pid != null) this.#parts.probes.syscalls.end(sandbox.vm.pid);
    });
    return sandbox;
  }

  /** VMs of a killed process that this one may take over. */
  get kept(): KeptVms | null {
    return this.#parts.kept;
  }

  get keepsVms(): boolean {
    return this.kept !== null && this.driver.adopt !== undefined;
  }

  /**
   * Like `supervise`; its start takes over a VM of `kept`.
   * @throws VmmError `vm_gone`
   */
  superviseKept(spec: SandboxSpec, id: string, sharers: string | null, openVolumes: VolumeTable['open']): Supervisor {
    const { driver, ram, home } = this;
    const record = this.#parts.kept?.of(id);
    const { fileOf } = driver;
    if (record === undefined || !driver.adopt || !driver.memoryOf || !fileOf) {
      throw new VmmError('vm_gone', 'there is no VM to take over');
    }
    const adopt = driver.adopt.bind(driver);
    const memoryFd = driver.memoryOf(record);
    return this.supervise(spec, {
      ...keptDisk(record, adoptedMemory(memoryFd), (path, by) => ram.map({ path }, by)),
      sharers,
      openVolumes: (...of) => openVolumes(...of, (fd) => fileOf(record, fileIdentity(fd))),
      driver: { ...driver, start: (vm, signal) => adopt(vm, record, signal) },
      madeFrom: record.madeFrom,
      makeWorkspace: async () => {
        const workspace = await adoptWorkspace(home.runDir, id);
        const remove = async (): Promise<void> => {
          await removeGroups(record.groups);
          await workspace.remove();
        };
        return { ...workspace, remove };
      },
    });
  }

  /** What was used of a budget for models; null: nothing is known of the account. */
  modelUse(account: string): BudgetUse | null {
    return this.#parts.bridge.budgetUse(account);
  }

  forgetModelUse(account: string): void {
    this.#parts.bridge.forgetBudget(account);
  }

  /** Calls `listener` after each request to the model. */
  onUsage(listener: (usage: UsageRecord) => void): void {
    this.#parts.usageListeners.add(listener);
  }

  /** Shares model servers among the tenants of sandboxes from now on. Before: all are the operator's. */
  setOwners(owners: Owners): void {
    Object.assign(this.#parts.owners, owners);
  }

  /** Starts the built-in model server ahead of the first request, which reports failures. */
  warmUpstream(): void {
    this.upstream.warm(this.artifacts.model).catch((error: unknown) => ignore(error, 'reported by the first request'));
  }

  /** Measures the turns of the event loop from now on. Call once somebody is served: those of the start delay nobody. */
  watchLoop(): void {
    const watch = new LoopWatch(this.metrics.turns, systemClock, this.#log, this.keepsVms ? HUNG_MS : undefined);
    this.#parts.cleanup.push('watch of the event loop', () => watch.close());
  }

  /** The packages of a VM. @param mayLogIn whether the host's login at an index serves it */
  packagesFor(mayLogIn: (host: string, sandboxId: string) => boolean): Pick<SandboxParts, 'attachPackages'> {
    return {
      attachPackages: (sandboxId, channelPath, policy, onFetch) =>
        this.#parts.packages.attach({
          sandboxId,
          socketPath: packageSocket(channelPath),
          policy,
          onFetch,
          mayLogIn: (host) => mayLogIn(host, sandboxId),
        }),
    };
  }

  /** The host of the index of Python packages, if this host logs in there. */
  packageLogin(): Promise<string | null> {
    return this.#parts.packages.loginOf('pip');
  }

  /** Stops every sandbox and every part. Idempotent. */
  async close(): Promise<void> {
    await Promise.all([...this.#sandboxes].map((sandbox) => sandbox.stop()));
    await this.#parts.cleanup.run();
    process.off('exit', this.#endVms);
  }

  readonly #endVms = (): void => {
    this.#parts.kept?.kill();
    for (const { vm } of this.#sandboxes) {
      const { pid = null } = vm?.isAlive() === true ? vm : {};
      if (pid !== null) tryOr(undefined, 'it has just ended', () => process.kill(pid, 'SIGKILL'));
    }
  };

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Emulated processors report no cache size, and OpenBLAS (NumPy) would warn about it on stderr. */
  #cpuEnv(): Readonly<Record<string, string>> {
    return this.driver.accelerator === 'tcg' ? { OPENBLAS_L2_SIZE: '256' } : {};
  }

  #sandboxParts({ kernelDigest, rootImageDigest }: MadeFrom = this.artifacts): SandboxParts {
    const { kept } = this.#parts;
    const keep = (dir: string, vm: KeptVm): void => {
      if (kept !== null) writeKept(dir, vm, kept.keeper, { kernelDigest, rootImageDigest });
    };
    const log = this.#log;
    const config = this.#config;
    return {
      driver: this.driver,
      kernelPath: this.artifacts.kernelPath,
      rootImagePath: this.artifacts.rootImagePath,
      makeWorkspace: (spec) => makeWorkspace(this.home.runDir, spec.id, this.keepsVms ? keep : undefined),
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
        const port = await this.#parts.bridge.attach({ sandboxId, socketPath, policy, account });
        return {
          setModels: (changed) => port.setPolicy(bridgePolicy(changed, config)),
          inFlight: () => port.stats().inFlight,
          setSuspended: (isSuspended) => port.setSuspended(isSuspended),
          close: () => port.close(),
        };
      },
      ...this.packagesFor((host, id) => this.#parts.owners.mayLogIn(id, host)),
      hostMemory: (vmmPid, id) => this.#parts.probes.watchVmm(id, vmmPid, this.#parts.vmmMemory.watch(vmmPid)),
      hostViolations: (vmmPid) => this.#parts.violations.watch(vmmPid),
      leaseNetwork: (id, network, secrets) => this.network.lease(id, network, secrets),
      clock: systemClock,
      log,
      tracer: this.tracer,
    };
  }
}

/** @throws SandboxError `volumes_unavailable` */
function requireVolumes({ capabilities, name }: VmmDriver, { volumes = [] }: SandboxOptions): void {
  if (volumes.length === 0 || capabilities.volumes === true) return;
  throw new SandboxError('volumes_unavailable', `VMs in ${name} have no volumes`, {
    remedy: 'restart the daemon with `neurovisor serve --vmm qemu`, or omit the volumes',
  });
}
