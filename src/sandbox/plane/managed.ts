/**
 * One sandbox over all its VMs: a supervisor owns one VM, a managed sandbox owns one supervisor after another.
 *
 *     running ─┬─► saving ─► running                                  snapshot, fork
 *              ├─► saving ─► saved ─► suspended (disk) ─► restoring ─► running
 *              ├─► paused (memory) ─┬─► resuming ─► running
 *              │                    └─► saving ─► paused, suspended   snapshot, fork, pause to disk
 *              └─► ending ─► ended
 * The whole table is in `managed-state.ts`. Changes run one at a time. After a failed change the sandbox is as
 * before, or it ends because its VM died. A suspended sandbox belongs to the first process that claims it.
 */
import { describeError } from '../../base/errors.ts';
import type { PauseReason, PauseTarget, ResumeOptions, SandboxInfo } from '../contract/control.ts';
import { daemonStopDetail, endInfo, endWithoutVm, type SandboxEnd, type StopCause } from '../contract/ending.ts';
import { refusal, SandboxError, stalledAgain } from '../contract/errors.ts';
import type { StartTimings } from '../contract/parts.ts';
import type { LifetimePolicy, Provenance } from '../contract/request.ts';
import { requireValues } from '../contract/secrets.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import type { SnapshotRow } from '../store/snapshot.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { EventJournal, UsageLog } from './event-journal.ts';
import { activityOf, Lifetime, statusText } from './lifetime.ts';
import type { Identity, ManagedParts } from './managed-parts.ts';
import { ManagedRow } from './managed-row.ts';
import { isIn, type ManagedState, pausedToOf, type StateKind, StateMachine, type StateOf } from './managed-state.ts';
import { SandboxChanges } from './sandbox-changes.ts';
import { sandboxInfo } from './sandbox-info.ts';
import { SerialQueue, SingleFlight } from './serial-queue.ts';
import type { ForkLease, SaveExtent } from './start-source.ts';

export class ManagedSandbox {
  readonly id: string;
  readonly provenance: Provenance;
  readonly usage: UsageLog;
  readonly events: EventJournal;
  readonly #parts: ManagedParts<ManagedSandbox>;
  readonly #row: ManagedRow;
  readonly changes: SandboxChanges;
  readonly lifetime: Lifetime;
  readonly #life: StateMachine;
  #foreignPause: string | null;
  #timings: StartTimings | null = null;
  #readyMs: number | null = null;
  /** It was paused to disk, and continued in a VM of this process. */
  #isRestored = false;
  readonly #queue = new SerialQueue();
  readonly #resuming = new SingleFlight();
  readonly #rebooting = new SingleFlight();
  #removing: Promise<void> | undefined;
  readonly #endPersisted = Promise.withResolvers<void>();
  /** Resolves when the end is on disk. */
  readonly endPersisted = this.#endPersisted.promise;
  readonly #aborter = new AbortController();

  private constructor(parts: ManagedParts<ManagedSandbox>, identity: Identity, state: ManagedState) {
    this.#parts = parts;
    this.#life = new StateMachine(state, () => parts.onChange(this));
    this.id = identity.spec.id;
    this.provenance = identity.provenance;
    this.#foreignPause = identity.foreignPause ?? null;
    this.usage = new UsageLog(parts.clock, parts.savesUse === true ? () => this.#row.saveUse() : undefined);
    this.events = new EventJournal(parts.clock, (event) => parts.onEvent(this, event), identity.lastEvent);
    this.#row = new ManagedRow(identity, {
      id: this.id,
      provenance: this.provenance,
      rows: parts.rows,
      life: this.#life,
      lifetime: () => this.lifetime,
      events: this.events,
      onChange: () => parts.onChange(this),
      onOwnershipLost: () => parts.onOwnershipLost(this),
    });
    this.lifetime = new Lifetime({
      clock: parts.clock,
      log: parts.log,
      sandbox: this.id,
      policy: () => this.#row.policy,
      activity: () => activityOf(this.#life.status === 'running' ? this.#life.supervisor : undefined),
      kill: () => void this.remove('timeout').catch((error: unknown) => this.#warn('end', error)),
      pause: (to, reason, from) => this.#queue.run(() => this.#pauseIf(from, to, reason)),
    });
    this.lifetime.setPaused(identity.pauseReason ?? null, identity.timeoutLeftMs ?? null);
    this.changes = new SandboxChanges({
      row: this.#row,
      life: this.#life,
      lifetime: this.lifetime,
      queue: this.#queue,
      live: () => this.live(),
      requireRunning: () => this.#require('changed', 'running').supervisor,
      refusal: () => this.#refusal('changed'),
      reserve: (memoryMib) => parts.reserve(memoryMib),
      onChange: () => parts.onChange(this),
    });
  }

  /** Its row is written, without which it would end with its process. @param made.endsAtMs see `Lifetime.start` */
  static async started(
    parts: ManagedParts<ManagedSandbox>,
    made: Omit<Identity, 'spec'> & { supervisor: Supervisor; readyMs: number | null; endsAtMs?: number | null },
  ): Promise<ManagedSandbox> {
    const { supervisor, readyMs } = made;
    const sandbox = new ManagedSandbox(parts, { ...made, spec: supervisor.spec }, { kind: 'running', supervisor });
    sandbox.#readyMs = readyMs;
    sandbox.#adopt(supervisor);
    if (readyMs === null) sandbox.#timings = null;
    parts.onChange(sandbox);
    await sandbox.#begin(made.endsAtMs);
    return sandbox;
  }

  static suspended(
    parts: ManagedParts<ManagedSandbox>,
    made: Identity & { readonly snapshotId: string; readonly isDiskOnly: boolean },
  ): ManagedSandbox {
    const { snapshotId, isDiskOnly } = made;
    const place = { snapshotId, isDiskOnly, isClaimed: false };
    return new ManagedSandbox(parts, made, { kind: 'suspended', ...place });
  }

  get spec(): SandboxSpec {
    return this.#row.spec;
  }

  get policy(): LifetimePolicy {
    return this.#row.policy;
  }

  /** The snapshot of a suspended sandbox while no change is under way here; null otherwise. */
  get pausedSnapshotId(): string | null {
    const { state } = this.#life;
    return state.kind === 'suspended' && !this.#queue.isBusy ? state.snapshotId : null;
  }

  info(): SandboxInfo {
    return sandboxInfo(this.#parts.rows.withModelUse(this.#row.spec), this.#row.policy, this.provenance, {
      status: this.#life.status,
      pausedTo: pausedToOf(this.#life.state),
      pauseReason: this.lifetime.pauseReason,
      foreignPause: this.#life.isOver ? null : this.#foreignPause,
      endsAtMs: this.lifetime.endsAtMs,
      timings: this.#timings,
      readyMs: this.#readyMs,
      accelerator: this.#parts.accelerator,
      end: this.#life.end,
      vm: this.#life.supervisor,
    });
  }

  /** The current VM, if any. */
  get vm(): Supervisor['vm'] {
    return this.#life.supervisor?.vm;
  }

  /** @see SandboxChanges.growMemory */
  async growMemory(memoryMib: number): Promise<void> {
    await this.changes.growMemory(memoryMib);
  }

  /** The snapshot of a pause whose files this version can only read; `null` for others. */
  async foreignSnapshot(): Promise<string | null> {
    await this.drain();
    return this.#foreignPause === null ? null : this.pausedSnapshotId;
  }

  /** The running VM; may resume. @throws SandboxError `not_ready`, `gone`, `disk_full`, and what resuming may throw */
  async live(): Promise<Supervisor> {
    for (let hasResumed = false; ; hasResumed = true) {
      while (this.#queue.isBusy) await this.#queue.settle();
      const state = this.#life.state;
      if (state.kind === 'running') {
        this.lifetime.touch();
        return state.supervisor;
      }
      if (this.#life.status !== 'paused') throw this.#refusal('used');
      if (!this.#row.policy.autoResume || this.#life.isDiskOnly) {
        throw this.#refusal('used', 'resume it first');
      }
      if (hasResumed && this.#life.supervisor?.isStalled === true) throw stalledAgain(this.id);
      await this.resume();
    }
  }

  async pause(to: PauseTarget): Promise<void> {
    await this.#queue.run(async () => {
      if (to === 'memory') await this.#pauseToMemory(this.#require('paused', 'running'));
      else await this.#pauseToDisk(this.#require('paused', 'running', 'paused'), to);
    });
  }

  /** In memory, for a full disk of the host; the timeout keeps counting (`full-disk.ts`). */
  async pauseStalled(): Promise<boolean> {
    return await this.#queue.run(async () => {
      const state = this.#life.state;
      if (state.kind !== 'running' || !state.supervisor.isStalled) return false;
      await this.#pauseToMemory(state, 'idle');
      return true;
    });
  }

  /** Does nothing for a running sandbox. Two calls at once are one; a reboot may work where a resume fails. */
  async resume(options: ResumeOptions = {}): Promise<void> {
    await (options.reboot === true ? this.#rebooting : this.#resuming).run(
      () => this.#queue.run(() => this.#resume(options)),
      () => this.#life.isOver || options.signal?.aborted === true,
    );
  }

  /** Afterwards the sandbox runs, or is paused, as before. */
  async snapshot(name: string | null, extent: SaveExtent = 'all'): Promise<SnapshotRow> {
    const { snapshots } = this.#parts;
    const label = { name, annotations: this.policy.annotations };
    return await this.#copy(
      (snapshotId) => snapshots.copy(snapshotId, extent, label),
      (supervisor) => snapshots.snapshot(supervisor, extent, label),
    );
  }

  /** Resolves when the sandbox is as before. @param onCopied called earlier; owns the lease, also if this throws */
  async acquireForkSource(onCopied: (lease: ForkLease) => void): Promise<void> {
    const { snapshots } = this.#parts;
    await this.#copy(
      async (snapshotId) => onCopied(await snapshots.open(snapshotId)),
      (supervisor) => snapshots.acquireForkSource(supervisor, onCopied),
    );
  }

  /** Resolves when nothing is left. Idempotent. @throws SandboxError `not_ready`: another process has it */
  remove(cause: StopCause = 'stopped', detail?: string): Promise<void> {
    this.#removing ??= this.#remove(cause, detail);
    return this.#removing;
  }

  async #remove(cause: StopCause, detail: string | undefined): Promise<void> {
    if (this.#life.status === 'ended') return await this.endPersisted;
    this.#life.beginEnd();
    this.lifetime.stop();
    this.#aborter.abort(new SandboxError('gone', `sandbox ${this.id} was removed`));
    await this.#life.supervisor?.stop(cause, detail);
    while (this.#queue.isBusy) await this.#queue.settle();
    // A restore may have succeeded at the last moment.
    await this.#life.supervisor?.stop(cause, detail);
    if (this.#life.snapshotId !== null) {
      await this.#row.claim();
      const end = endWithoutVm(cause, 'removed while it was paused', this.#parts.clock.wall());
      // The sandbox exists as long as its row says so.
      const keep = (): Promise<void> => this.#parts.rows.keep(this.#row.make(null, end));
      await this.#row.orOwnershipLost(this.#row.writer.inTurn(keep));
      this.#finish('removed', end);
    }
    await this.#endPersisted.promise;
  }

  /** Waits for saves and resumes under way, which may fail. */
  readonly drain = (): Promise<void> => this.#queue.drain();

  /** For the shutdown of the host: a suspended sandbox stays. @param why it could not be paused; ends its VM at once */
  async leave(why?: string): Promise<void> {
    this.lifetime.stop();
    const detail = daemonStopDetail(this.#isRestored, why);
    if (why !== undefined && this.#life.snapshotId === null) void this.#life.supervisor?.stop('daemon-stopped', detail);
    while (this.#queue.isBusy) await this.#queue.settle();
    if (this.#life.state.kind !== 'suspended') await this.remove('daemon-stopped', detail);
  }

  async #copy<T>(
    fromDisk: (snapshotId: string) => Promise<T>,
    fromVm: (supervisor: Supervisor) => Promise<T>,
  ): Promise<T> {
    return await this.#queue.run(async () => {
      if (this.#life.state.kind === 'suspended') return await fromDisk(this.#life.state.snapshotId);
      return await this.#save(this.#require('saved', 'running', 'paused'), fromVm);
    });
  }

  /** A sandbox paused in memory runs for the save, and is paused again afterwards. */
  async #save<T>(from: StateOf<'running' | 'paused'>, work: (supervisor: Supervisor) => Promise<T>): Promise<T> {
    const { supervisor } = from;
    const wasPaused = from.kind === 'paused';
    this.#life.move(from, 'save', { supervisor, wasPaused });
    const stopTimeout = wasPaused ? this.lifetime.startStoppedTimeout() : null;
    try {
      if (wasPaused) await supervisor.resume();
      return await work(supervisor);
    } finally {
      await this.#settle(wasPaused);
      if (this.#life.state.kind === 'paused') stopTimeout?.();
    }
  }

  /** After a save or a resume in memory: follows the VM. Does nothing where a commit, a removal or an end came first. */
  async #settle(toPaused: boolean): Promise<void> {
    const state = this.#life.state;
    if (state.kind !== 'saving' && state.kind !== 'resuming') return;
    const { supervisor } = state;
    if (toPaused && supervisor.state === 'ready') {
      await supervisor.pause().catch((error: unknown) => this.#warn('pause again', error));
    }
    if (this.#life.state !== state) return;
    if (supervisor.state === 'paused') this.#life.move(state, 'pause-again', { supervisor });
    // The supervisor reports the end.
    else if (supervisor.state !== 'ready') this.#life.beginEnd();
    else {
      if (pausedToOf(state) !== null) this.lifetime.continue();
      this.#life.move(state, 'continue', { supervisor });
    }
  }

  async #pauseToMemory(from: StateOf<'running'>, stops: 'all' | 'idle' = 'all'): Promise<void> {
    const { supervisor } = from;
    await supervisor.pause();
    this.lifetime.stop(stops);
    this.#life.move(from, 'pause', { supervisor });
    await this.#row.persist();
  }

  async #pauseToDisk(from: StateOf<'running' | 'paused'>, to: 'disk' | 'disk-only'): Promise<void> {
    const { snapshots } = this.#parts;
    const isDiskOnly = to === 'disk-only';
    try {
      await this.#save(from, (supervisor) =>
        snapshots.pause(supervisor, { isDiskOnly, annotations: this.policy.annotations }, (snapshotId, commit) =>
          this.#row.writer.inTurn(async () => {
            this.#row.spec = await this.#parts.rows.specToKeep(supervisor);
            await commit(this.#row.make(snapshotId, this.#life.end, isDiskOnly));
            this.#life.commit({ snapshotId, isDiskOnly });
            // From here on the sandbox is on disk, and must not be killed with its VM.
            this.lifetime.stop();
          }),
        ),
      );
    } finally {
      const state = this.#life.state;
      if (state.kind === 'saved') {
        const { snapshotId } = state;
        this.#life.move(state, 'vm-released', { snapshotId, isDiskOnly, isClaimed: false });
      }
    }
  }

  async #pauseIf(
    kinds: readonly ('running' | 'paused')[],
    to: 'disk' | 'disk-only',
    reason: PauseReason | null = null,
  ): Promise<boolean> {
    const { state } = this.#life;
    if (!isIn(state, kinds)) return false;
    this.lifetime.pauseReason = reason;
    await this.#pauseToDisk(state, to);
    return true;
  }

  async #resume(options: ResumeOptions): Promise<void> {
    // With the memory, which a boot that fails must not lose.
    if (options.reboot === true) await this.#pauseIf(['paused'], 'disk');
    const state = this.#life.state;
    if (state.kind === 'running') return;
    if (state.kind === 'suspended') return await this.#restore(state, options);
    if (state.kind !== 'paused') throw this.#refusal('resumed');
    const { supervisor } = state;
    this.#life.move(state, 'resume', { supervisor });
    const stopTimeout = this.lifetime.startStoppedTimeout();
    await supervisor.resume().finally(async () => {
      await this.#settle(false);
      if (this.#life.state.kind === 'paused') stopTimeout?.();
    });
    await this.#row.persist();
  }

  async #restore(from: StateOf<'suspended'>, { signal, reboot = false }: ResumeOptions): Promise<void> {
    const { snapshots, start, rows } = this.#parts;
    const signals = [this.#aborter.signal, ...(signal === undefined ? [] : [signal])];
    this.#life.move(from, 'resume', from);
    try {
      await this.#row.claim();
      if (this.#row.spec.network !== null) requireValues(this.id, this.#row.spec.secrets);
      const extent = reboot || this.#life.isDiskOnly ? 'disk' : 'all';
      await using lease = await snapshots.open(this.#life.snapshotId ?? '', extent, 'meanwhile');
      const owner = { annotations: this.policy.annotations, resumes: this.id };
      const starting = start(this.#row.spec, lease.source, owner, AbortSignal.any(signals));
      await this.#run(await lease.orDamage(starting));
    } catch (error) {
      if (this.#aborter.signal.aborted) throw this.#refusal('resumed');
      const state = this.#life.state;
      if (this.#life.isClaimed) await this.#row.writer.inTurn(() => rows.release(this.id));
      if (state.kind === 'restoring') {
        this.#life.move(state, 'restore-failed', { ...state, isClaimed: false });
      }
      throw error;
    }
  }

  /** From here on the VM is the truth. Its next row no longer names the snapshot, which is then deleted. */
  async #run(supervisor: Supervisor): Promise<void> {
    const state = this.#life.state;
    this.#adopt(supervisor);
    if (state.kind === 'ending') {
      // The removal stops this VM.
      const inVm = { supervisor, snapshotId: null, isDiskOnly: false, isClaimed: false };
      this.#life.move(state, 'vm-ready', { ...inVm, pausedTo: state.pausedTo });
    } else if (state.kind === 'restoring') {
      this.#life.move(state, 'vm-ready', { supervisor });
      this.#isRestored = true;
      this.#foreignPause = null;
      await this.#begin();
    }
  }

  #adopt(supervisor: Supervisor): void {
    this.#row.spec = supervisor.spec;
    this.#timings = this.provenance.origin === 'pool' ? null : (supervisor.timings ?? null);
    supervisor.events.listen((event) => this.events.note(event));
    void supervisor.ended.then((end) => this.#vmEnded(supervisor, end));
  }

  #begin(endsAtMs?: number | null): Promise<void> {
    this.lifetime.start(endsAtMs);
    return this.#row.persist();
  }

  #vmEnded(supervisor: Supervisor, end: SandboxEnd): void {
    // Saved: the sandbox is on disk, and another VM will continue it.
    if (this.#life.supervisor !== supervisor || this.#life.snapshotId !== null) return;
    this.#finish('vm-ended', end);
  }

  #require<K extends StateKind>(what: string, ...kinds: readonly K[]): StateOf<K> {
    const state = this.#life.state;
    if (!isIn(state, kinds)) throw this.#refusal(what);
    return state;
  }

  #refusal(what: string, remedy?: string): SandboxError {
    const status = statusText(this.#life.status, this.lifetime.pauseReason);
    return refusal(this.id, status, what, remedy);
  }

  #finish(event: 'vm-ended' | 'removed', end: SandboxEnd): void {
    this.lifetime.stop();
    this.events.note({ type: 'end', end: endInfo(end) });
    this.#life.finish(event, end);
    void this.#row.persist().then(() => this.#endPersisted.resolve());
  }

  #warn(what: string, error: unknown): void {
    const fields = { sandbox: this.id, reason: describeError(error) };
    this.#parts.log.warn(`could not ${what} a sandbox`, fields);
  }
}
