/**
 * The sandboxes of this process; the one implementation of `ControlPlane` that holds VMs.
 *
 *     create ──► starter.ts ──► managed.ts (one per sandbox) ──► supervisor.ts (one per VM of it)
 *                  pools.ts         snapshot-manager.ts ──► store
 *
 * All I/O comes in as parts.
 */

import type { Duplex } from 'node:stream';
import type { ChannelStats } from '../../base/channel.ts';
import { describeError } from '../../base/errors.ts';
import { parseSandboxId } from '../../base/ids.ts';
import { ignore } from '../../base/ignore.ts';
import { Listeners } from '../../base/listeners.ts';
import type { ModelBudget } from '../../base/request/model-limits.ts';
import { passiveTracer, type Tracer } from '../../base/trace/trace.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import type { Guest } from '../../machine/guest/guest.ts';
import type { Vm } from '../../machine/vmm/driver.ts';
import type {
  ControlPlane,
  CreateRequest,
  EventsOptions,
  ForkOptions,
  ForkResult,
  HostInfo,
  LogChunk,
  PauseTarget,
  PoolInfo,
  PoolLimits,
  PoolMembers,
  ResumeOptions,
  SandboxChange,
  SandboxFilter,
  SandboxInfo,
  SnapshotInfo,
  SnapshotOptions,
} from '../contract/control.ts';
import type { SandboxLogs } from '../contract/ending.ts';
import { SandboxError, translateStoreErrors } from '../contract/errors.ts';
import type { TimedEvent } from '../contract/events.ts';
import { RANGES } from '../contract/limits.ts';
import { packagePolicy } from '../contract/packages.ts';
import { checkRequest, type LifetimePolicy, lifetimePolicyOf, type Provenance } from '../contract/request.ts';
import { requireValues } from '../contract/secrets.ts';
import {
  checkBudget,
  checkChannelLimits,
  checkDiskLimits,
  inRange,
  modelAccountOf,
  networkSpec,
  type ParseEgress,
  withoutIdentity,
} from '../contract/spec.ts';
import { tracedGuest } from '../contract/traced-guest.ts';
import { MemoryPolicy, type PolicyParts } from '../memory/policy.ts';
import type { OpenTemplate } from '../start/pools.ts';
import { Starter, type StarterParts } from '../start/starter.ts';
import type { NamedTemplate } from '../start/template.ts';
import type { Store } from '../store/store.ts';
import { onDiskEvent } from '../vm/full-disk.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { ENDED_MAX, EndedSandboxes } from './ended.ts';
import { type ForkStart, startForks } from './forks.ts';
import { chunksOf, followLogs, logsOf } from './logs.ts';
import { ManagedSandbox } from './managed.ts';
import type { ManagedParts } from './managed-parts.ts';
import type { GuardedHost } from './memory-guard.ts';
import { RecentEvents } from './recent-events.ts';
import { SandboxRows, type SandboxRowsParts } from './sandbox-rows.ts';
import type { SandboxUpdate } from './sandbox-update.ts';
import type { SnapshotManager } from './snapshot-manager.ts';

export interface ControlParts extends StarterParts {
  readonly store: Store;
  readonly snapshots: SnapshotManager;
  readonly accelerator: string;
  /** Posts an event of a sandbox to its owner. */
  readonly notify?: PolicyParts['notify'];
  /** The host's part of `HostInfo`. */
  describe(): Promise<Omit<HostInfo, 'accelerator' | 'sandboxes' | 'paused' | 'queued' | 'startedAtMs'>>;
  /**
   * What the template of this name is made of, and the request with that.
   * @throws SandboxError `not_found`, `spec_invalid`: the request wants something else
   */
  fromNamedTemplate(name: string, request: CreateRequest): Promise<FromTemplate>;
  /** Builds the template if it is missing. */
  prepareTemplate(members: PoolMembers): Promise<OpenTemplate>;
  /** A connection to the agent's operations. */
  dial(channelPath: string): Duplex;
  /** Unique id of this control plane, with which other processes check whether it is alive. */
  readonly ownerJson: string;
  isOwnerAlive(ownerJson: string): Promise<boolean>;
  readonly parseEgress: ParseEgress;
  readonly modelUse?: SandboxRowsParts['modelUse'];
}

export interface FromTemplate {
  readonly request: CreateRequest;
  readonly named: NamedTemplate;
}

export class LocalControlPlane implements ControlPlane {
  readonly #parts: ControlParts;
  readonly #starter: Starter;
  readonly #sandboxes = new Map<string, ManagedSandbox>();
  readonly #ended: EndedSandboxes;
  /** Ended sandboxes whose end is not yet on disk, or that still work on a save. */
  readonly #ending = new Map<string, ManagedSandbox>();
  /** The newest events of all sandboxes. */
  readonly recentEvents = new RecentEvents();
  readonly #memoryPolicy: MemoryPolicy;
  readonly #changes = new Listeners<SandboxInfo>();
  readonly #rows: SandboxRows;
  readonly #tracer: Tracer;
  readonly #startedAtMs: number;
  /** Creations and forks under way. */
  readonly #starts = new Set<Promise<unknown>>();
  readonly #closer = new AbortController();
  #closing: Promise<void> | undefined;

  private constructor(parts: ControlParts) {
    this.#parts = parts;
    this.#startedAtMs = Math.round(parts.clock.wall());
    this.#starter = new Starter(parts);
    this.#tracer = parts.tracer ?? passiveTracer();
    this.#rows = new SandboxRows(parts);
    this.#ended = new EndedSandboxes(this.#rows, parts.accelerator);
    this.#memoryPolicy = new MemoryPolicy({ ...parts, reserve: (mib) => parts.queue.reserve(mib) });
  }

  /** Also marks sandboxes of killed processes as ended. */
  static async open(parts: ControlParts): Promise<LocalControlPlane> {
    const control = new LocalControlPlane(parts);
    await control.#rows.reconcile();
    return control;
  }

  async host(): Promise<HostInfo> {
    const all = await this.list();
    const { accelerator, queue } = this.#parts;
    return {
      ...(await this.#parts.describe()),
      accelerator,
      sandboxes: all.length,
      paused: all.filter(({ status }) => status === 'paused').length,
      queued: queue.stats().waiting,
      startedAtMs: this.#startedAtMs,
    };
  }

  async create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    this.#requireOpen();
    return await this.#track(this.#createFrom(request, signal));
  }

  async #createFrom(asked: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    const { request, named } = await this.#fromTemplate(asked);
    // For a snapshot the maximum is known only later; without one, `grow` acts as `warn`.
    const canGrow = request.memoryMaxMib !== undefined || request.snapshot !== undefined;
    checkRequest(request, canGrow);
    return await this.#tracer.span('create', {}, async (span) => {
      const info = await this.#create(request, named, this.#untilClosed(signal));
      span.set({ 'neurovisor.sandbox.id': info.id, 'neurovisor.sandbox.origin': info.origin });
      this.#tracer.note(info.id, span.context);
      return info;
    });
  }

  async list(filter: SandboxFilter = {}): Promise<readonly SandboxInfo[]> {
    await this.#readPaused();
    const withEnded = filter.status?.includes('ended') === true;
    const ended = withEnded ? await this.#ended.all((id) => this.#sandboxes.has(id)) : [];
    const pairs = Object.entries(filter.metadata ?? {});
    const fits = ({ status, metadata }: SandboxInfo): boolean =>
      (filter.status?.includes(status) ?? true) && pairs.every(([key, value]) => metadata[key] === value);
    const newestFirst = (a: SandboxInfo, b: SandboxInfo): number => b.createdAtMs - a.createdAtMs;
    const here = [...this.#sandboxes.values()].map((one) => one.info()).filter(fits);
    const over = ended.filter(fits).sort(newestFirst).slice(0, ENDED_MAX);
    return [...here, ...over].sort(newestFirst);
  }

  async get(id: string): Promise<SandboxInfo> {
    return (await this.#endOf(id)) ?? (await this.#find(id)).info();
  }

  async update(id: string, change: SandboxChange): Promise<SandboxInfo> {
    const sandbox = await this.#find(id);
    checkRequest(change, sandbox.spec.memoryMaxMib !== undefined);
    const { channelLimits, diskLimits, network, secrets, requestHeaders, memoryMib, packages, models, ...lifetime } =
      change;
    const budget = models && checkBudget(models.budget);
    const policy = budget === undefined ? lifetime : { ...lifetime, models: { budget } };
    const update: SandboxUpdate = {
      secrets,
      requestHeaders,
      limits: {
        ...(channelLimits && { channelLimits: checkChannelLimits(channelLimits) }),
        ...(diskLimits && { diskLimits: checkDiskLimits(diskLimits) }),
      },
      network: network === undefined ? undefined : networkSpec(network, this.#parts.parseEgress, sandbox.spec.network),
      memoryMib,
      packages: packages === undefined ? undefined : packagePolicy(packages),
      policy,
    };
    await translateStoreErrors(sandbox.update(update));
    if (budget !== undefined) await this.#changeSharedBudget(sandbox, budget);
    return sandbox.info();
  }

  /** What a fork may use is what its original may. */
  async #changeSharedBudget(changed: ManagedSandbox, budget: ModelBudget): Promise<void> {
    const account = modelAccountOf(changed.spec);
    for (const { id, spec } of this.#sandboxes.values()) {
      if (id === changed.id || modelAccountOf(spec) !== account) continue;
      try {
        await (await this.#find(id)).update({ limits: {}, policy: { models: { budget } } });
      } catch (error) {
        // It has ended, or another process has it.
        const fields = { sandbox: id, reason: describeError(error) };
        this.#parts.log.warn('the shared budget of a fork was not changed', fields);
      }
    }
  }

  async remove(id: string): Promise<SandboxInfo> {
    const sandbox = await this.#find(id);
    await translateStoreErrors(sandbox.remove());
    return sandbox.info();
  }

  async pause(id: string, to: PauseTarget): Promise<SandboxInfo> {
    const sandbox = await this.#find(id);
    await translateStoreErrors(sandbox.pause(to));
    return sandbox.info();
  }

  async resume(id: string, options: ResumeOptions = {}): Promise<SandboxInfo> {
    const sandbox = await this.#find(id);
    await translateStoreErrors(sandbox.resume(options));
    return sandbox.info();
  }

  async snapshot(id: string, options: SnapshotOptions = {}): Promise<SnapshotInfo> {
    const { name = null, diskOnly = false } = options;
    const sandbox = await this.#find(id);
    const made = sandbox.snapshot(name, diskOnly ? 'disk' : 'all');
    return await translateStoreErrors(made.then((row) => this.#parts.snapshots.shown(row)));
  }

  async fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]> {
    const { count } = options;
    inRange('count', count, RANGES.forks);
    checkRequest({ timeoutMs: options.timeoutMs, metadata: options.metadata });
    this.#requireOpen();
    return await this.#track(this.#fork(await this.#find(id), options));
  }

  async snapshots(): Promise<readonly SnapshotInfo[]> {
    return await translateStoreErrors(this.#parts.snapshots.list());
  }

  /** Space on disk of the pauses of sandboxes, bytes, by the sandbox's id. */
  async pausedBytes(): Promise<ReadonlyMap<string, number>> {
    return await translateStoreErrors(this.#parts.snapshots.pausedBytes());
  }

  async removeSnapshot(idOrName: string): Promise<void> {
    await translateStoreErrors(this.#parts.snapshots.remove(idOrName));
  }

  async pools(): Promise<readonly PoolInfo[]> {
    return this.#starter.pools.list();
  }

  async setPool(limits: PoolLimits, members: PoolMembers = {}): Promise<PoolInfo> {
    this.#requireOpen();
    const template = await this.#parts.prepareTemplate(members);
    this.#requireOpen();
    return await this.#starter.pools.set(template, limits, members.template ?? null);
  }

  async guest(id: string): Promise<Guest> {
    return tracedGuest(await translateStoreErrors((await this.#find(id)).guest()), id, this.#tracer);
  }

  async openOperation(id: string): Promise<Duplex> {
    const { vm } = await translateStoreErrors((await this.#find(id)).live());
    if (vm === undefined) throw new SandboxError('not_ready', `sandbox ${id} has no VM`);
    return this.#parts.dial(vm.channelPath);
  }

  async openPort(id: string, port: number, signal?: AbortSignal): Promise<Duplex> {
    const { card } = await translateStoreErrors((await this.#find(id)).live());
    return await translateStoreErrors(card.connect(port, signal));
  }

  async channelStats(id: string): Promise<ChannelStats> {
    const { vm } = await translateStoreErrors((await this.#find(id)).live());
    if (vm === undefined) throw new SandboxError('not_ready', `sandbox ${id} has no VM`);
    return await vm.channelStats();
  }

  /** The serial console of a sandbox made with an interactive one; null: it has none. */
  async terminal(id: string): Promise<Vm['terminal']> {
    return (await this.#find(id)).vm?.terminal ?? null;
  }

  async usage(id: string): Promise<readonly UsageRecord[]> {
    return (await this.#find(id)).usage.records;
  }

  async logs(id: string): Promise<SandboxLogs> {
    await this.#ending.get(id)?.endPersisted;
    if ((await this.#endOf(id)) === null) return logsOf((await this.#find(id)).vm);
    return (await translateStoreErrors(this.#rows.logs(id))) ?? { console: '', vmm: '' };
  }

  async *followLogs(id: string, signal: AbortSignal): AsyncGenerator<LogChunk, void> {
    if ((await this.#endOf(id)) !== null) return yield* chunksOf(await this.logs(id));
    yield* followLogs(await this.#find(id), this, this.#parts.clock, signal);
  }

  async *events(id: string, options: EventsOptions = {}): AsyncGenerator<TimedEvent, void> {
    const { after = 0, follow = true, signal = new AbortController().signal } = options;
    const ended = await this.#endOf(id);
    if (ended?.end != null) {
      // Earlier events are gone with the process, or the sandbox, that held them.
      yield { type: 'end', end: ended.end, seq: after + 1, atMs: ended.end.atMs };
      return;
    }
    const { events } = await this.#find(id);
    if (follow) yield* events.read(after, signal);
    else yield* events.since(after);
  }

  /** What the guard of the host's memory acts on. */
  get guarded(): GuardedHost {
    return { sandboxes: () => [...this.#sandboxes.values()], pools: this.#starter.pools };
  }

  onChange(listener: (info: SandboxInfo) => void): () => void {
    return this.#changes.listen(listener);
  }

  /** For the bridge: a model request is over. */
  noteUsage(record: UsageRecord): void {
    this.#sandboxes.get(record.sandboxId)?.usage.note(record);
  }

  /** Ends all sandboxes except those paused to disk. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { queue } = this.#parts;
    this.#closer.abort(closing());
    await Promise.all([queue.close(), this.#starter.pools.close(), ...this.#starts]);
    const leaving = [...this.#sandboxes.values()].map((sandbox) => sandbox.leave());
    leaving.push(...[...this.#ending.values()].map((sandbox) => sandbox.drain()));
    for (const left of await Promise.allSettled(leaving)) {
      if (left.status === 'fulfilled') continue;
      // Another process has it, and the caller of `remove` got the error.
      this.#parts.log.warn('a sandbox was not ended', { reason: describeError(left.reason) });
    }
  }

  async #fromTemplate(
    request: CreateRequest,
  ): Promise<{ readonly request: CreateRequest; readonly named: NamedTemplate | null }> {
    const { template } = request;
    if (template === undefined) return { request, named: null };
    return await this.#parts.fromNamedTemplate(template, request);
  }

  async #create(request: CreateRequest, named: NamedTemplate | null, signal: AbortSignal): Promise<SandboxInfo> {
    const askedAtMs = this.#parts.clock.now();
    const { snapshot } = request;
    await using held = snapshot === undefined ? null : await this.#parts.snapshots.openNamed(snapshot);
    const started =
      held === null
        ? await this.#starter.start(request, signal, named)
        : await held.orDamage(this.#starter.startFromSnapshot(request, held, signal));
    const provenance = {
      origin: started.origin,
      snapshot: held?.row.id ?? null,
      template: request.template ?? null,
      parent: null,
    };
    return await this.#adopt({ ...started, askedAtMs }, lifetimePolicyOf(request), provenance, signal);
  }

  async #fork(parent: ManagedSandbox, options: ForkOptions): Promise<readonly ForkResult[]> {
    if (parent.spec.network !== null) requireValues(parent.id, parent.spec.secrets);
    const startOne = (start: ForkStart): Promise<ForkResult> => this.#forkOne(parent, start, options);
    return await startForks(parent, options.count, startOne, this.#closer.signal);
  }

  async #forkOne(
    parent: ManagedSandbox,
    { source, parentReturned, signal }: ForkStart,
    options: ForkOptions,
  ): Promise<ForkResult> {
    const askedAtMs = this.#parts.clock.now();
    const { timeoutMs = parent.policy.timeoutMs, metadata = parent.policy.metadata } = options;
    try {
      const spec = { ...this.#parts.makeSpec({}), ...withoutIdentity(parent.spec) };
      const { annotations } = parent.policy;
      const owner = { annotations, resumes: null, copies: options.count };
      const supervisor = await this.#starter.startFrom(spec, source, owner, signal);
      await parentReturned;
      const policy = { ...parent.policy, timeoutMs, metadata };
      const provenance = {
        origin: 'fork',
        snapshot: null,
        template: parent.provenance.template,
        parent: parent.id,
      } as const;
      const sandbox = await this.#adopt({ supervisor, askedAtMs }, policy, provenance, signal);
      return { ok: true, sandbox };
    } catch (error) {
      const code = error instanceof SandboxError ? error.code : 'start_failed';
      return { ok: false, code, message: describeError(error) };
    }
  }

  /** Stops the VM instead if the request was cancelled meanwhile. */
  async #adopt(
    { supervisor, askedAtMs }: { supervisor: Supervisor; askedAtMs: number },
    policy: LifetimePolicy,
    provenance: Omit<Provenance, 'createdAtMs'>,
    signal: AbortSignal,
  ): Promise<SandboxInfo> {
    if (signal.aborted) {
      await supervisor.stop();
      this.#parts.gate?.abandoned(supervisor.spec.id);
      throw new SandboxError('cancelled', 'starting the sandbox was cancelled');
    }
    const { clock } = this.#parts;
    const sandbox = ManagedSandbox.started(this.#managedParts(), {
      supervisor,
      policy,
      readyMs: clock.now() - askedAtMs,
      provenance: { ...provenance, createdAtMs: Math.round(clock.wall()) },
    });
    return sandbox.info();
  }

  /** Lets `close` wait for the work. */
  async #track<T>(work: Promise<T>): Promise<T> {
    const settled = work.catch((error: unknown) => ignore(error, 'reported to the caller'));
    this.#starts.add(settled);
    try {
      return await translateStoreErrors(work);
    } finally {
      this.#starts.delete(settled);
    }
  }

  #untilClosed(signal?: AbortSignal): AbortSignal {
    return AbortSignal.any([this.#closer.signal, ...(signal === undefined ? [] : [signal])]);
  }

  #managedParts(): ManagedParts<ManagedSandbox> {
    const { clock, log, accelerator, snapshots } = this.#parts;
    return {
      clock,
      log,
      accelerator,
      snapshots,
      rows: this.#rows,
      start: (spec, source, owner, signal) => this.#starter.startFrom(spec, source, owner, this.#untilClosed(signal)),
      reserve: (memoryMib) => this.#parts.queue.reserve(memoryMib),
      onChange: (sandbox) => this.#changed(sandbox),
      onEvent: (sandbox, event) => {
        this.recentEvents.note(sandbox.id, event);
        void this.#memoryPolicy.take(sandbox, event);
        void onDiskEvent(sandbox, event, this.#parts.log);
      },
      onOwnershipLost: (sandbox) => this.#forget(sandbox),
    };
  }

  #forget(sandbox: ManagedSandbox): void {
    if (this.#sandboxes.get(sandbox.id) === sandbox) this.#sandboxes.delete(sandbox.id);
  }

  #changed(sandbox: ManagedSandbox): void {
    const info = sandbox.info();
    if (info.status === 'running') this.#sandboxes.set(sandbox.id, sandbox);
    if (info.status === 'ended') {
      this.#forget(sandbox);
      this.#tracer.forget(sandbox.id);
      this.#ended.add(info);
      this.#ending.set(sandbox.id, sandbox);
      const over = Promise.all([sandbox.endPersisted, sandbox.drain()]);
      void over.then(() => this.#ending.delete(sandbox.id));
    }
    this.#changes.emit(info);
  }

  async #find(id: string): Promise<ManagedSandbox> {
    const known = this.#sandboxes.get(id);
    if (known !== undefined && known.pausedSnapshotId === null) return known;
    const ended = await this.#endOf(id);
    if (ended !== null) {
      const { cause, detail } = ended.end ?? { cause: 'unknown', detail: '' };
      const because = detail === '' ? {} : { cause: detail };
      throw new SandboxError('gone', `sandbox ${id} has ended: ${cause}`, because);
    }
    if (parseSandboxId(id) !== undefined) await this.#readPaused();
    const found = this.#sandboxes.get(id);
    if (found !== undefined) return found;
    throw new SandboxError('not_found', `there is no sandbox ${id}`, { remedy: 'neurovisor ls' });
  }

  /** An ended sandbox of this or another process; null: not ended. */
  async #endOf(id: string): Promise<SandboxInfo | null> {
    const known = this.#ended.own(id);
    if (known !== undefined) return known;
    if (this.#sandboxes.get(id)?.pausedSnapshotId === null || parseSandboxId(id) === undefined) return null;
    return await this.#ended.stored(id);
  }

  /** Suspended sandboxes are shared by all processes with this store, so their rows may have changed. */
  async #readPaused(): Promise<void> {
    const known = [...this.#sandboxes.values()].map((one) => ({ one, as: one.pausedSnapshotId }));
    const rows = await translateStoreErrors(this.#rows.paused());
    const snapshots = new Set(rows.map(({ pausedSnapshotId }) => pausedSnapshotId));
    for (const { one, as } of known) {
      if (as !== null && as === one.pausedSnapshotId && !snapshots.has(as)) this.#forget(one);
    }
    for (const row of rows) {
      const { id, pausedSnapshotId: snapshotId } = row;
      const stored = this.#sandboxes.has(id) || this.#ended.has(id) ? null : this.#rows.parse(row);
      if (stored === null) continue;
      const { spec, policy, origin, template, isDiskOnly, pauseReason } = stored;
      const { snapshot, parent, createdAtMs } = row;
      const provenance: Provenance = { origin, snapshot, template, parent, createdAtMs };
      const made = { spec, policy, provenance, snapshotId, isDiskOnly, pauseReason };
      this.#sandboxes.set(id, ManagedSandbox.suspended(this.#managedParts(), made));
    }
  }

  #requireOpen(): void {
    if (this.#closing !== undefined) throw closing();
  }
}

function closing(): SandboxError {
  return new SandboxError('cancelled', 'the host is shutting down');
}
