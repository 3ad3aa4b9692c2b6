/**
 * The sandboxes of this process: made, listed, paused, forked and ended; the one implementation of
 * `ControlPlane` that holds VMs.
 *
 *     create ──► starter.ts ──► managed.ts (one per sandbox) ──► supervisor.ts (one per VM of it)
 *                  pools.ts         keeper.ts ──► store
 *
 * Everything that does I/O comes in as parts.
 */
import type { Duplex } from 'node:stream';
import type { ChannelStats } from '../base/channel.ts';
import { describeError } from '../base/errors.ts';
import { parseSandboxId } from '../base/ids.ts';
import { ignore } from '../base/ignore.ts';
import type { UsageRecord } from '../bridge/bridge.ts';
import type { Guest } from '../guest/guest.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';
import type { Store } from '../store/store.ts';
import type {
  ControlPlane,
  CreateRequest,
  ForkOptions,
  ForkResult,
  HostInfo,
  PoolInfo,
  PoolLimits,
  SandboxChange,
  SandboxFilter,
  SandboxInfo,
  SnapshotInfo,
} from './control.ts';
import { SandboxError } from './errors.ts';
import type { HeldSource, Keeper } from './keeper.ts';
import { type Birth, type ManagedParts, ManagedSandbox } from './managed.ts';
import type { OpenTemplate, Started } from './pools.ts';
import { checkRequest, FORKS_MAX, parseStored, termsOf } from './request.ts';
import type { SandboxSpec } from './spec.ts';
import { Starter, type StarterParts } from './starter.ts';
import type { TemplateSpec } from './template.ts';

export interface ControlParts extends StarterParts {
  readonly store: Store;
  readonly keeper: Keeper;
  readonly accelerator: string;
  /** For people and programs: what this host is. */
  describe(): Pick<HostInfo, 'version' | 'vmm' | 'upstream' | 'memoryAvailableMib'>;
  /** Builds it if need be. */
  prepareTemplate(spec: Partial<TemplateSpec>): Promise<OpenTemplate>;
  /** A connection to the agent's operations. */
  dial(channelPath: string): Duplex;
  /** This process, so that others know when it is gone. */
  readonly ownerJson: string;
  isOwnerAlive(ownerJson: string): Promise<boolean>;
}

/** Those that have ended and can still be read. */
const ENDED_MAX = 256;

export class LocalControlPlane implements ControlPlane {
  readonly #parts: ControlParts;
  readonly #starter: Starter;
  readonly #sandboxes = new Map<string, ManagedSandbox>();
  readonly #ended = new Map<string, SandboxInfo>();
  readonly #listeners = new Set<(info: SandboxInfo) => void>();
  readonly #startedAtMs: number;
  /** Rows are written one after another, so that an older state never covers a newer one. */
  #writing: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  private constructor(parts: ControlParts) {
    this.#parts = parts;
    this.#startedAtMs = Math.round(parts.clock.wall());
    this.#starter = new Starter(parts);
  }

  /** Takes note of what a killed process has left. */
  static async open(parts: ControlParts): Promise<LocalControlPlane> {
    const control = new LocalControlPlane(parts);
    await control.#reconcile();
    return control;
  }

  async host(): Promise<HostInfo> {
    const all = await this.list();
    const { accelerator, queue } = this.#parts;
    return {
      ...this.#parts.describe(),
      accelerator,
      sandboxes: all.length,
      paused: all.filter(({ status }) => status === 'paused').length,
      queued: queue.stats().waiting,
      startedAtMs: this.#startedAtMs,
    };
  }

  async create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    const askedAt = this.#parts.clock.now();
    checkRequest(request);
    this.#requireOpen();
    const held = request.snapshot === undefined ? null : await this.#openSnapshot(request.snapshot);
    try {
      const started =
        held === null
          ? await this.#starter.start(request, signal)
          : await this.#starter.goOn(request, held, signal);
      const sandbox = this.#adopt(started, request, held?.row.id ?? null, null);
      sandbox.running(started.supervisor, this.#parts.clock.now() - askedAt);
      return sandbox.info();
    } finally {
      await held?.release();
    }
  }

  async list(filter: SandboxFilter = {}): Promise<readonly SandboxInfo[]> {
    await this.#adoptPaused();
    const pairs = Object.entries(filter.metadata ?? {});
    const ended = filter.status?.includes('ended') === true ? [...this.#ended.values()] : [];
    return [...[...this.#sandboxes.values()].map((one) => one.info()), ...ended]
      .filter(({ status }) => filter.status?.includes(status) ?? true)
      .filter(({ metadata }) => pairs.every(([key, value]) => metadata[key] === value))
      .sort((a, b) => b.createdAtMs - a.createdAtMs);
  }

  async get(id: string): Promise<SandboxInfo> {
    const ended = this.#ended.get(id);
    if (ended !== undefined) return ended;
    return (await this.#find(id)).info();
  }

  async update(id: string, change: SandboxChange): Promise<SandboxInfo> {
    checkRequest(change);
    const sandbox = await this.#find(id);
    const { channelLimits, ...terms } = change;
    if (channelLimits !== undefined) await sandbox.setChannelLimits(channelLimits);
    sandbox.change(terms);
    return sandbox.info();
  }

  async remove(id: string): Promise<SandboxInfo> {
    const sandbox = await this.#find(id);
    await sandbox.remove();
    return sandbox.info();
  }

  async pause(id: string, to: 'memory' | 'disk'): Promise<SandboxInfo> {
    const sandbox = await this.#find(id);
    await sandbox.pause(to);
    return sandbox.info();
  }

  async resume(id: string, signal?: AbortSignal): Promise<SandboxInfo> {
    const sandbox = await this.#find(id);
    await sandbox.resume(signal);
    return sandbox.info();
  }

  async snapshot(id: string, options: { readonly name?: string } = {}): Promise<SnapshotInfo> {
    const sandbox = await this.#find(id);
    return this.#parts.keeper.info(await sandbox.snapshot(options.name ?? null));
  }

  async fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]> {
    const { count } = options;
    if (!Number.isSafeInteger(count) || count < 1 || count > FORKS_MAX) {
      throw new SandboxError('spec_invalid', `count: ${count} is not from 1 to ${FORKS_MAX}`);
    }
    const parent = await this.#find(id);
    const held = await parent.hold();
    try {
      const forks = Array.from({ length: count }, () => this.#forkOne(parent, held, options));
      return await Promise.all(forks);
    } finally {
      await held.release();
    }
  }

  async snapshots(): Promise<readonly SnapshotInfo[]> {
    return await this.#parts.keeper.list();
  }

  async removeSnapshot(idOrName: string): Promise<void> {
    await this.#parts.keeper.remove(idOrName);
  }

  async pools(): Promise<readonly PoolInfo[]> {
    return this.#starter.pools.list();
  }

  async setPool(limits: PoolLimits, spec: Partial<TemplateSpec> = {}): Promise<PoolInfo> {
    this.#requireOpen();
    return await this.#starter.pools.set(await this.#parts.prepareTemplate(spec), limits);
  }

  async guest(id: string): Promise<Guest> {
    return await (await this.#find(id)).guest();
  }

  async openOperation(id: string): Promise<Duplex> {
    const { vm } = await (await this.#find(id)).live();
    if (vm === undefined) throw new SandboxError('not_ready', `sandbox ${id} has no VM`);
    return this.#parts.dial(vm.channelPath);
  }

  async channelStats(id: string): Promise<ChannelStats> {
    const { vm } = await (await this.#find(id)).live();
    if (vm === undefined) throw new SandboxError('not_ready', `sandbox ${id} has no VM`);
    return await vm.channelStats();
  }

  async usage(id: string): Promise<readonly UsageRecord[]> {
    return (await this.#find(id)).usage;
  }

  onChange(listener: (info: SandboxInfo) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** For the bridge: a request of a sandbox is over. */
  noteUsage(record: UsageRecord): void {
    this.#sandboxes.get(record.sandboxId)?.noteUsage(record);
  }

  /** Ends all sandboxes but those that are paused to disk. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all([
      this.#parts.queue.close(),
      this.#starter.pools.close(),
      ...[...this.#sandboxes.values()].map((sandbox) => sandbox.leave()),
    ]);
    await this.#writing;
  }

  async #forkOne(
    parent: ManagedSandbox,
    held: HeldSource,
    options: ForkOptions,
  ): Promise<ForkResult> {
    const askedAt = this.#parts.clock.now();
    const { timeoutMs, metadata } = options;
    const { spec: parentSpec, terms } = parent;
    const request: CreateRequest = {
      ...terms,
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(metadata === undefined ? {} : { metadata }),
    };
    try {
      const spec = { ...this.#parts.makeSpec({}), ...withoutIdentity(parentSpec) };
      const supervisor = await this.#starter.clone(spec, held.source);
      const sandbox = this.#adopt({ supervisor, origin: 'fork' }, request, null, parent.id);
      sandbox.running(supervisor, this.#parts.clock.now() - askedAt);
      return { ok: true, sandbox: sandbox.info() };
    } catch (error) {
      const code = error instanceof SandboxError ? error.code : 'start_failed';
      return { ok: false, code, message: describeError(error) };
    }
  }

  #adopt(
    { supervisor, origin }: Pick<Started, 'supervisor' | 'origin'>,
    request: CreateRequest,
    snapshot: string | null,
    parent: string | null,
  ): ManagedSandbox {
    const createdAtMs = Math.round(this.#parts.clock.wall());
    const birth: Birth = { origin, snapshot, parent, createdAtMs };
    const made = { spec: supervisor.spec, terms: termsOf(request), birth };
    const sandbox = ManagedSandbox.starting(this.#managedParts(), made);
    this.#sandboxes.set(sandbox.id, sandbox);
    return sandbox;
  }

  #managedParts(): ManagedParts {
    const { clock, log, accelerator, keeper, ownerJson } = this.#parts;
    return {
      ...{ clock, log, accelerator, keeper, ownerJson },
      start: (spec, source, signal) => this.#starter.clone(spec, source, signal),
      persist: (row) => this.#persist(row),
      changed: (sandbox) => this.#changed(sandbox),
    };
  }

  #changed(sandbox: ManagedSandbox): void {
    const info = sandbox.info();
    if (info.status === 'ended') {
      this.#sandboxes.delete(sandbox.id);
      this.#ended.set(sandbox.id, info);
      const [oldest] = this.#ended.keys();
      if (this.#ended.size > ENDED_MAX && oldest !== undefined) this.#ended.delete(oldest);
    }
    for (const listener of this.#listeners) {
      try {
        listener(info);
      } catch (error) {
        ignore(error, 'a listener threw');
      }
    }
  }

  #persist(row: SandboxRow): Promise<void> {
    this.#writing = this.#writing
      .then(() => this.#parts.store.sandboxes.put(row))
      .catch((error: unknown) => {
        const reason = describeError(error);
        this.#parts.log.error('a sandbox could not be noted', { sandbox: row.id, reason });
      });
    return this.#writing;
  }

  async #find(id: string): Promise<ManagedSandbox> {
    const known = this.#sandboxes.get(id);
    if (known !== undefined) return known;
    const ended = this.#ended.get(id);
    if (ended !== undefined) {
      throw new SandboxError('gone', `sandbox ${id} has ended: ${ended.end?.cause}`);
    }
    if (parseSandboxId(id) !== undefined) await this.#adoptPaused();
    const adopted = this.#sandboxes.get(id);
    if (adopted !== undefined) return adopted;
    throw new SandboxError('not_found', `there is no sandbox ${id}`, {
      remedy: 'neurovisor ls',
    });
  }

  /** What is paused on the disk is everybody's who uses this store. */
  async #adoptPaused(): Promise<void> {
    for (const row of await this.#parts.store.sandboxes.list('paused')) {
      const { id, pausedSnapshotId: pauseId } = row;
      if (pauseId === null || this.#sandboxes.has(id) || this.#ended.has(id)) continue;
      const stored = parseStored(row);
      if (stored === null) continue;
      const { spec, terms, origin } = stored;
      const { snapshot, parent, createdAtMs } = row;
      const birth: Birth = { origin, snapshot, parent, createdAtMs };
      const made = { spec, terms, birth, pauseId };
      this.#sandboxes.set(id, ManagedSandbox.paused(this.#managedParts(), made));
    }
  }

  /** Sandboxes whose process was killed have ended; who asks gets to know it. */
  async #reconcile(): Promise<void> {
    const { store, log, clock, isOwnerAlive } = this.#parts;
    const rows = await store.sandboxes.list();
    for (const row of rows) {
      if (row.status === 'ended' || row.ownerJson === null) continue;
      if (await isOwnerAlive(row.ownerJson)) continue;
      const end = {
        cause: 'host-lost',
        detail: 'the process that held it was killed',
        atMs: Math.floor(clock.wall()),
      };
      const ended = { ownerJson: null, status: 'ended', pausedSnapshotId: null, end } as const;
      await store.sandboxes.put({ ...row, ...ended, endsAtMs: null });
      log.info('a sandbox ended with the process that held it', { sandbox: row.id });
    }
  }

  async #openSnapshot(idOrName: string): Promise<HeldSnapshot> {
    const row = await this.#parts.keeper.find(idOrName);
    if (row.kind === 'pause') {
      throw new SandboxError('not_found', `there is no snapshot ${idOrName}`);
    }
    return await this.#parts.keeper.open(row.id);
  }

  #requireOpen(): void {
    if (this.#closing === undefined) return;
    throw new SandboxError('cancelled', 'the host is being shut down');
  }
}

type HeldSnapshot = Awaited<ReturnType<Keeper['open']>>;

function withoutIdentity(spec: SandboxSpec): Omit<SandboxSpec, 'id' | 'hostname'> {
  const { id: _id, hostname: _hostname, ...rest } = spec;
  return rest;
}
