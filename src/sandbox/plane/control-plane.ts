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
import type { ModelBudget } from '../../base/request/model-limits.ts';
import { timeLimit } from '../../base/time-limit.ts';
import { passiveTracer, type Tracer } from '../../base/trace/trace.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import type { OperationAccess } from '../../machine/guest/dial.ts';
import type { Guest, GuestReader } from '../../machine/guest/guest.ts';
import type { Vm } from '../../machine/vmm/driver.ts';
import { check, inRange } from '../contract/checks.ts';
import type {
  ControlPlane,
  CreateRequest,
  EventsOptions,
  ForkOptions,
  ForkResult,
  HostDescription,
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
  VolumeInfo,
  VolumeRequest,
} from '../contract/control.ts';
import type { SandboxLogs } from '../contract/ending.ts';
import { SandboxError, translateStoreErrors } from '../contract/errors.ts';
import type { TimedEvent } from '../contract/events.ts';
import { DEFAULTS, NAME_FAULT, RANGES, VOLUME_REFERENCE } from '../contract/limits.ts';
import { modelAccountOf } from '../contract/model-policy.ts';
import type { ParseEgress } from '../contract/network-spec.ts';
import { SESSION_ANNOTATION } from '../contract/request.ts';
import { tracedGuest } from '../contract/traced-guest.ts';
import { MemoryPolicy, type PolicyParts } from '../memory/policy.ts';
import type { OpenTemplate } from '../start/pools.ts';
import { openGate } from '../start/start-gate.ts';
import { Starter } from '../start/starter.ts';
import { PlaneSecrets, type PlaneSecretsParts } from '../start/stored-secrets.ts';
import type { Store } from '../store/store.ts';
import type { VolumeTable } from '../store/volume-table.ts';
import { onDiskEvent } from '../vm/full-disk.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { adoptAll, countLeft, type LeftVms } from './adoption.ts';
import { type CreatorParts, SandboxCreator } from './creator.ts';
import { pauseAll, resumeAll, STARTS_MS_MAX, type StopOptions } from './daemon-stop.ts';
import { Directory } from './directory.ts';
import { RecentEvents } from './event-journal.ts';
import { chunksOf, followLogs, logsOf } from './logs.ts';
import type { ManagedSandbox } from './managed.ts';
import type { ManagedParts } from './managed-parts.ts';
import type { GuardedHost } from './memory-guard.ts';
import { RescueVms } from './rescue-vms.ts';
import { SandboxRows, type SandboxRowsParts } from './sandbox-rows.ts';
import { checkChange } from './sandbox-update.ts';
import type { SnapshotManager } from './snapshot-manager.ts';
import { requireNoVolumes } from './snapshot-row.ts';

export interface ControlParts extends CreatorParts, PlaneSecretsParts {
  readonly store: Store;
  readonly snapshots: SnapshotManager;
  readonly volumes: Pick<VolumeTable, 'create' | 'list' | 'remove'>;
  /** Makes an empty file system. @throws SandboxError `volumes_unavailable` */
  formatVolume(path: string, sizeBytes: number): Promise<void>;
  readonly accelerator: string;
  /** Posts an event of a sandbox to its owner. */
  readonly notify?: PolicyParts['notify'];
  describe(): Promise<HostDescription>;
  /** Builds the template if it is missing. */
  prepareTemplate(members: PoolMembers): Promise<OpenTemplate>;
  /** A connection to the agent's operations: all, or those that read files. */
  dial(channelPath: string, access: OperationAccess): Duplex;
  /** Unique id of this control plane, with which other processes check whether it is alive. */
  readonly ownerJson: string;
  isOwnerAlive(ownerJson: string): Promise<boolean>;
  readonly parseEgress: ParseEgress;
  readonly modelUse?: SandboxRowsParts['modelUse'];
  /** For `LocalControlPlane.adopt`. Default: none. */
  readonly left?: LeftVms | undefined;
}

export type { StopOptions } from './daemon-stop.ts';

export class LocalControlPlane implements ControlPlane {
  readonly #parts: ControlParts;
  readonly #starter: Starter;
  readonly #rows: SandboxRows;
  readonly #directory: Directory;
  readonly #creator: SandboxCreator;
  readonly #tracer: Tracer;
  readonly #memoryPolicy: MemoryPolicy;
  readonly #rescues: RescueVms;
  readonly secrets: PlaneSecrets;
  /** The newest events of all sandboxes. */
  readonly recentEvents = new RecentEvents();
  readonly #startedAtMs: number;
  /** Names of sandboxes that are being created. */
  readonly #names = new Set<string>();
  #closing: Promise<void> | undefined;
  #resuming: Promise<void> | undefined;

  private constructor(parts: ControlParts) {
    this.#parts = parts;
    this.secrets = new PlaneSecrets(parts, () => this.list());
    this.#startedAtMs = Math.round(parts.clock.wall());
    this.#starter = new Starter(parts);
    this.#rows = new SandboxRows(parts);
    this.#tracer = parts.tracer ?? passiveTracer();
    this.#memoryPolicy = new MemoryPolicy({ ...parts, reserve: (mib) => parts.queue.reserve(mib) });
    const managed = this.#managedParts();
    this.#directory = new Directory(managed, this.#tracer);
    this.#creator = new SandboxCreator(parts, this.#starter, managed);
    this.#rescues = new RescueVms({ ...parts, start: managed.start });
  }

  /** Also marks sandboxes of killed processes as ended. */
  static async open(parts: ControlParts): Promise<LocalControlPlane> {
    const control = new LocalControlPlane(parts);
    await control.#rows.reconcile(parts.left?.ids);
    if (parts.left !== undefined) await countLeft(parts.left, control.#rows, parts.gate ?? openGate);
    return control;
  }

  /**
   * Takes over the VMs of killed processes that live on. Requests for sandboxes wait for it. Call it once, when all
   * that decides about sandboxes is in place. Never rejects.
   */
  adopt(): Promise<void> {
    const { left, clock, log, gate = openGate } = this.#parts;
    if (left === undefined || left.ids.length === 0) return Promise.resolve();
    const adopting = adoptAll({ clock, log, left, managed: this.#managedParts(), gate });
    this.#directory.waitFor(adopting);
    return adopting;
  }

  async host(): Promise<HostInfo> {
    const all = await this.list();
    const { accelerator, queue, gate = openGate } = this.#parts;
    return {
      ...(await this.#parts.describe()),
      accelerator,
      sandboxes: all.length,
      paused: all.filter(({ status }) => status === 'paused').length,
      queued: queue.stats().waiting,
      starting: this.#creator.starting,
      cordoned: gate.isCordoned,
      startedAtMs: this.#startedAtMs,
    };
  }

  async create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    await this.secrets.require(request.secrets);
    return await this.#named(request.name, () => this.#creator.create(request, signal));
  }

  /** @throws SandboxError `name_taken` */
  async #named<T>(name: string | undefined, start: () => Promise<T>): Promise<T> {
    if (name === undefined) return await start();
    const remedy = 'choose another name';
    if (this.#names.has(name))
      throw new SandboxError('name_taken', 'a sandbox of this name is being created', { remedy });
    this.#names.add(name);
    try {
      const [holder] = await this.list({ name });
      if (holder === undefined) return await start();
      throw new SandboxError('name_taken', `the name is that of sandbox ${holder.id}`, {
        remedy: `${remedy}, or remove that sandbox: neurovisor rm ${holder.id}`,
      });
    } finally {
      this.#names.delete(name);
    }
  }

  async list(filter?: SandboxFilter): Promise<readonly SandboxInfo[]> {
    return await this.#directory.list(filter);
  }

  async get(id: string): Promise<SandboxInfo> {
    return await this.#directory.get(id);
  }

  async update(id: string, change: SandboxChange): Promise<SandboxInfo> {
    const sandbox = await this.#directory.find(id);
    await this.secrets.require(change.secrets);
    const update = checkChange(change, sandbox.spec, this.#parts.parseEgress);
    await translateStoreErrors(sandbox.changes.update(update));
    const { budget } = update.policy.models ?? {};
    if (budget !== undefined) await this.#changeSharedBudget(sandbox, budget);
    return sandbox.info();
  }

  /** What a fork may use is what its original may. */
  async #changeSharedBudget(changed: ManagedSandbox, budget: ModelBudget): Promise<void> {
    const account = modelAccountOf(changed.spec);
    for (const { id, spec } of this.#directory.sandboxes) {
      if (id === changed.id || modelAccountOf(spec) !== account) continue;
      try {
        await (await this.#directory.find(id)).changes.update({ limits: {}, policy: { models: { budget } } });
      } catch (error) {
        // It has ended, or another process has it.
        const fields = { sandbox: id, reason: describeError(error) };
        this.#parts.log.warn('the shared budget of a fork was not changed', fields);
      }
    }
  }

  async remove(id: string): Promise<SandboxInfo> {
    const sandbox = await this.#directory.find(id);
    await translateStoreErrors(sandbox.remove());
    await this.#rescues.end(id);
    return sandbox.info();
  }

  async pause(id: string, to: PauseTarget): Promise<SandboxInfo> {
    const sandbox = await this.#directory.find(id);
    await translateStoreErrors(sandbox.pause(to));
    return sandbox.info();
  }

  async resume(id: string, options: ResumeOptions = {}): Promise<SandboxInfo> {
    const sandbox = await this.#directory.find(id);
    await translateStoreErrors(sandbox.resume(options));
    return sandbox.info();
  }

  async snapshot(id: string, options: SnapshotOptions = {}): Promise<SnapshotInfo> {
    const { name = null, diskOnly = false } = options;
    const sandbox = await this.#directory.find(id);
    requireNoVolumes(sandbox.spec);
    const made = sandbox.snapshot(name, diskOnly ? 'disk' : 'all');
    return await translateStoreErrors(made.then((row) => this.#parts.snapshots.shown(row)));
  }

  async fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]> {
    return await this.#named(options.name, () => this.#creator.fork(() => this.#directory.find(id), options));
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

  async createVolume({ name, sizeMib = DEFAULTS.diskMib, annotations = {} }: VolumeRequest): Promise<VolumeInfo> {
    check(VOLUME_REFERENCE.test(name), 'name', NAME_FAULT);
    inRange('sizeMib', sizeMib, RANGES.diskMib);
    const format = (path: string, bytes: number): Promise<void> => this.#parts.formatVolume(path, bytes);
    return await translateStoreErrors(this.#parts.volumes.create({ name, annotations, sizeMib }, format));
  }

  async volumes(): Promise<readonly VolumeInfo[]> {
    return await translateStoreErrors(this.#parts.volumes.list());
  }

  async removeVolume(idOrName: string): Promise<void> {
    await translateStoreErrors(this.#parts.volumes.remove(idOrName));
  }

  async pools(): Promise<readonly PoolInfo[]> {
    return this.#starter.pools.list();
  }

  async setPool(limits: PoolLimits, members: PoolMembers = {}): Promise<PoolInfo> {
    this.#creator.requireOpen();
    const template = await this.#parts.prepareTemplate(members);
    this.#creator.requireOpen();
    return await this.#starter.pools.set(template, limits, members.template ?? null);
  }

  async guest(id: string): Promise<Guest> {
    return tracedGuest((await translateStoreErrors((await this.#directory.find(id)).live())).guest(), id, this.#tracer);
  }

  async reader(id: string, signal?: AbortSignal): Promise<GuestReader> {
    return (await this.#reading(id, signal)).supervisor.guest();
  }

  async openOperation(id: string, signal?: AbortSignal): Promise<Duplex> {
    const { supervisor, access } = await this.#reading(id, signal);
    if (supervisor.vm === undefined) throw new SandboxError('not_ready', `sandbox ${id} has no VM`);
    return this.#parts.dial(supervisor.vm.channelPath, access);
  }

  /** Its VM, or one that reads the files of a pause that does not fit this host. */
  async #reading(id: string, signal?: AbortSignal): Promise<{ supervisor: Supervisor; access: OperationAccess }> {
    const sandbox = await this.#directory.find(id);
    const snapshotId = await sandbox.foreignSnapshot();
    if (snapshotId === null) return { supervisor: await translateStoreErrors(sandbox.live()), access: 'all' };
    const rescue = this.#rescues.open(sandbox, snapshotId, signal);
    return { supervisor: await translateStoreErrors(rescue), access: 'reads' };
  }

  async openPort(id: string, port: number, signal?: AbortSignal): Promise<Duplex> {
    const { card } = await translateStoreErrors((await this.#directory.find(id)).live());
    return await translateStoreErrors(card.connect(port, signal));
  }

  async channelStats(id: string): Promise<ChannelStats> {
    const { vm } = await translateStoreErrors((await this.#directory.find(id)).live());
    if (vm === undefined) throw new SandboxError('not_ready', `sandbox ${id} has no VM`);
    return await vm.channelStats();
  }

  /** The serial console of a sandbox made with an interactive one; null: it has none. */
  async terminal(id: string): Promise<Vm['terminal']> {
    return (await this.#directory.find(id)).vm?.terminal ?? null;
  }

  async usage(id: string): Promise<readonly UsageRecord[]> {
    return (await this.#directory.find(id)).usage.records;
  }

  async logs(id: string): Promise<SandboxLogs> {
    await this.#directory.endPersisted(id);
    if ((await this.#directory.endOf(id)) === null) return logsOf((await this.#directory.find(id)).vm);
    return (await translateStoreErrors(this.#rows.logs(id))) ?? { console: '', vmm: '' };
  }

  async *followLogs(id: string, signal: AbortSignal): AsyncGenerator<LogChunk, void> {
    if ((await this.#directory.endOf(id)) !== null) return yield* chunksOf(await this.logs(id));
    yield* followLogs(await this.#directory.find(id), this, this.#parts.clock, signal);
  }

  async *events(id: string, options: EventsOptions = {}): AsyncGenerator<TimedEvent, void> {
    const { after = 0, follow = true, signal = new AbortController().signal } = options;
    const ended = await this.#directory.endOf(id);
    if (ended?.end != null) {
      // Earlier events are gone with the process, or the sandbox, that held them.
      yield { type: 'end', end: ended.end, seq: after + 1, atMs: ended.end.atMs };
      return;
    }
    const { events } = await this.#directory.find(id);
    if (follow) yield* events.read(after, signal);
    else yield* events.since(after);
  }

  /** What the guard of the host's memory acts on. */
  get guarded(): GuardedHost {
    return { sandboxes: () => this.#directory.sandboxes, pools: this.#starter.pools };
  }

  onChange(listener: (info: SandboxInfo) => void): () => void {
    return this.#directory.onChange(listener);
  }

  /** For the bridge: a model request is over. */
  noteUsage(record: UsageRecord): void {
    this.#directory.known(record.sandboxId)?.usage.note(record);
  }

  /**
   * Pauses to disk what the next daemon shall resume. Starts are refused from now on, with an error that asks to retry.
   * Never rejects; call `close` afterwards.
   */
  async pauseAll(options: StopOptions): Promise<void> {
    const { clock, log, queue } = this.#parts;
    using limit = timeLimit(clock, STARTS_MS_MAX, options.atOnce);
    await this.#creator.drain(limit.signal);
    const left = this.#directory.sandboxes.filter(
      ({ pausedSnapshotId, policy }) => pausedSnapshotId === null && !(SESSION_ANNOTATION in policy.annotations),
    );
    await pauseAll(left, { clock, log, concurrency: queue.concurrency }, options);
  }

  /** Resumes what ran when the last daemon was stopped, oldest first. Never rejects. */
  resumeStopped(): Promise<void> {
    this.#resuming ??= this.#resumeStopped();
    return this.#resuming;
  }

  async #resumeStopped(): Promise<void> {
    const { log, queue } = this.#parts;
    try {
      const paused = await this.list({ status: ['paused'] });
      const stopped = paused.filter(({ pauseReason }) => pauseReason === 'daemon-stopped').reverse();
      await resumeAll(stopped, (id) => this.#directory.find(id), {
        log,
        concurrency: queue.concurrency,
        isOpen: () => this.#creator.isOpen,
      });
    } catch (error) {
      log.error('the sandboxes that ran before could not be resumed', { reason: describeError(error) });
    }
  }

  /** Ends all sandboxes except those paused to disk. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#creator.close();
    await this.#rescues.end();
    await this.#resuming;
    const leaving = this.#directory.sandboxes.map((sandbox) => sandbox.leave());
    leaving.push(...this.#directory.ending.map((sandbox) => sandbox.drain()));
    for (const left of await Promise.allSettled(leaving)) {
      if (left.status === 'fulfilled') continue;
      // Another process has it, and the caller of `remove` got the error.
      this.#parts.log.warn('a sandbox was not ended', { reason: describeError(left.reason) });
    }
  }

  #managedParts(): ManagedParts<ManagedSandbox> {
    const { clock, log, accelerator, snapshots, queue } = this.#parts;
    return {
      clock,
      log,
      accelerator,
      snapshots,
      rows: this.#rows,
      savesUse: this.#parts.left !== undefined,
      start: (spec, source, owner, signal) =>
        this.#starter.startFrom(spec, source, owner, this.#creator.untilClosed(signal)),
      reserve: (memoryMib) => queue.reserve(memoryMib),
      onChange: (sandbox) => this.#directory.changed(sandbox),
      onEvent: (sandbox, event) => {
        this.recentEvents.note(sandbox.id, event);
        void this.#memoryPolicy.take(sandbox, event);
        void onDiskEvent(sandbox, event, log);
      },
      onOwnershipLost: (sandbox) => this.#directory.forget(sandbox),
    };
  }
}
