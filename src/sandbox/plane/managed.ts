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
import type { Guest } from '../../machine/guest/link.ts';
import type { PauseReason, PauseTarget, ResumeOptions, SandboxInfo } from '../contract/control.ts';
import { endInfo, endWithoutVm, type SandboxEnd } from '../contract/ending.ts';
import { refusal, SandboxError } from '../contract/errors.ts';
import type { StartTimings } from '../contract/parts.ts';
import { changeLifetime, type LifetimeChange, type LifetimePolicy, type Provenance } from '../contract/request.ts';
import { requireValues } from '../contract/secrets.ts';
import { hasSecretChange, type SandboxSpec, unwritten, withSecrets } from '../contract/spec.ts';
import { checkResize } from '../memory/size.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';
import type { SnapshotRow } from '../store/snapshot.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { EventJournal } from './event-journal.ts';
import { activityOf, Lifetime, statusText } from './lifetime.ts';
import type { Identity, ManagedParts } from './managed-parts.ts';
import { isIn, type ManagedState, pausedToOf, type StateKind, StateMachine, type StateOf } from './managed-state.ts';
import { sandboxInfo } from './sandbox-info.ts';
import { RowWriter } from './sandbox-rows.ts';
import { changeModels, changeVm, hasVmChange, type SandboxUpdate } from './sandbox-update.ts';
import { SerialQueue, SingleFlight } from './serial-queue.ts';
import type { ForkLease, SaveExtent } from './snapshot-manager.ts';
import { UsageLog } from './usage-log.ts';

export class ManagedSandbox {
  readonly id: string;
  readonly provenance: Provenance;
  readonly usage = new UsageLog();
  readonly events: EventJournal;
  readonly #parts: ManagedParts<ManagedSandbox>;
  readonly #writer: RowWriter;
  readonly lifetime: Lifetime;
  readonly #life: StateMachine;
  #spec: SandboxSpec;
  #policy: LifetimePolicy;
  #timings: StartTimings | null = null;
  #readyMs: number | null = null;
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
    this.#spec = identity.spec;
    this.#policy = identity.policy;
    this.id = identity.spec.id;
    this.provenance = identity.provenance;
    this.#writer = new RowWriter(parts.rows);
    this.events = new EventJournal(parts.clock, (event) => parts.onEvent(this, event));
    this.lifetime = new Lifetime({
      clock: parts.clock,
      log: parts.log,
      sandbox: this.id,
      policy: () => this.#policy,
      activity: () => activityOf(this.#life.status === 'running' ? this.#life.supervisor : undefined),
      kill: () => void this.remove('timeout').catch((error: unknown) => this.#warn('end', error)),
      pause: (to, reason, from) => this.#queue.run(() => this.#pauseIf(from, to, reason)),
    });
    this.lifetime.pauseReason = identity.pauseReason ?? null;
  }

  /** @param made.supervisor of a VM that is ready */
  static started(
    parts: ManagedParts<ManagedSandbox>,
    made: Omit<Identity, 'spec'> & { readonly supervisor: Supervisor; readonly readyMs: number },
  ): ManagedSandbox {
    const { supervisor, readyMs } = made;
    const identity = { ...made, spec: supervisor.spec };
    const sandbox = new ManagedSandbox(parts, identity, { kind: 'running', supervisor });
    sandbox.#readyMs = readyMs;
    sandbox.#adopt(supervisor);
    parts.onChange(sandbox);
    sandbox.#begin();
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
    return this.#spec;
  }

  get policy(): LifetimePolicy {
    return this.#policy;
  }

  /** The snapshot of a suspended sandbox while no change is under way here; null otherwise. */
  get pausedSnapshotId(): string | null {
    const { state } = this.#life;
    return state.kind === 'suspended' && !this.#queue.isBusy ? state.snapshotId : null;
  }

  info(): SandboxInfo {
    return sandboxInfo(this.#parts.rows.withModelUse(this.#spec), this.#policy, this.provenance, {
      status: this.#life.status,
      pausedTo: pausedToOf(this.#life.state),
      pauseReason: this.lifetime.pauseReason,
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

  /**
   * Changes all that is given, or nothing: if a part fails, those before it are undone; the error names the
   * parts that could not be. Resumes a paused sandbox as `guest` does, except where only the secrets or the
   * policy of a suspended one change.
   */
  async update(change: SandboxUpdate): Promise<void> {
    const hasSecrets = hasSecretChange(change);
    // Reported before anything is claimed or resumed.
    if (hasSecrets) withSecrets(this.#spec, change);
    if (change.memoryMib !== undefined) checkResize(this.#spec, change.memoryMib);
    if (!hasSecrets && !hasVmChange(change)) return await this.#changePolicy(change.policy);
    const before = this.#spec;
    const isOnDisk = this.#life.snapshotId !== null;
    // A suspended sandbox may need the values to be resumed.
    const undoSecrets = hasSecrets && isOnDisk ? await this.#changeOnDisk(change) : undefined;
    if (undoSecrets !== undefined && !hasVmChange(change)) return;
    try {
      await this.live();
    } catch (error) {
      await undoSecrets?.();
      throw error;
    }
    await this.#queue.run(() => this.#changeInVm(change, before));
  }

  async #changeInVm(change: SandboxUpdate, before: SandboxSpec): Promise<void> {
    const { supervisor } = this.#require('changed', 'running');
    const { memoryMib } = change;
    // Against the state at its turn: placeholders of another change stay.
    const changed = hasSecretChange(change) ? withSecrets(this.#spec, change) : undefined;
    const moreMib = (memoryMib ?? 0) - this.#spec.memoryMib;
    const release = moreMib > 0 ? this.#parts.reserve(moreMib) : undefined;
    try {
      await changeVm(supervisor, { ...change, secrets: changed }, before);
      this.#apply(change.policy);
    } finally {
      release?.();
      this.#spec = supervisor.spec;
      this.#parts.onChange(this);
      await this.#persist();
    }
  }

  /** Changes the secrets in the row, and the policy if the VM needs no change. Returns how to undo it. */
  async #changeOnDisk(change: SandboxUpdate): Promise<(() => Promise<void>) | undefined> {
    const { policy } = change;
    return await this.#queue.run(async () => {
      if (this.#life.isOver) throw this.#refusal('changed');
      if (this.#life.snapshotId === null) return undefined;
      await this.#claim();
      const { secrets: before, network } = this.#spec;
      try {
        this.#spec = withSecrets(this.#spec, change);
        if (!hasVmChange(change)) this.#apply(policy);
      } finally {
        await this.#release();
      }
      return () =>
        this.#queue.run(async () => {
          if (this.#life.state.kind !== 'suspended') return;
          await this.#claim();
          this.#spec = { ...this.#spec, secrets: before, network };
          await this.#release();
        });
    });
  }

  /** A timeout counts anew only if it is given. */
  async #changePolicy(change: LifetimeChange): Promise<void> {
    if (this.#life.isOver) throw this.#refusal('changed');
    if (this.#life.snapshotId === null) {
      this.#apply(change);
      // A pause may be committed before the row's turn; from then on any process may own the row.
      await this.#writer.write(() => (this.#life.snapshotId === null ? this.#row(null) : null));
      if (this.#life.snapshotId === null) return;
    }
    await this.#queue.run(async () => {
      if (this.#life.isOver) throw this.#refusal('changed');
      if (this.#life.snapshotId !== null) await this.#claim();
      this.#apply(change);
      await this.#release();
    });
  }

  /** Gives a running guest that is close to OOM more memory. */
  async growMemory(memoryMib: number): Promise<void> {
    await this.#queue.run(async () => {
      const { supervisor } = this.#require('changed', 'running');
      await supervisor.settings.resizeMemory(memoryMib, 'pressure').finally(() => {
        this.#spec = supervisor.spec;
        this.#parts.onChange(this);
      });
    });
  }

  /** The guest's operations; resumes a paused sandbox that has its memory if its policy allows it. */
  async guest(): Promise<Guest> {
    return (await this.live()).guest();
  }

  /** The running VM. @throws SandboxError `not_ready`, `gone`, and what resuming may throw */
  async live(): Promise<Supervisor> {
    for (;;) {
      while (this.#queue.isBusy) await this.#queue.settle();
      const state = this.#life.state;
      if (state.kind === 'running') {
        this.lifetime.touch();
        return state.supervisor;
      }
      if (this.#life.status !== 'paused') throw this.#refusal('used');
      if (!this.#policy.autoResume || this.#life.isDiskOnly) {
        throw this.#refusal('used', 'resume it first');
      }
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
  remove(cause: 'stopped' | 'timeout' = 'stopped'): Promise<void> {
    this.#removing ??= this.#remove(cause);
    return this.#removing;
  }

  async #remove(cause: 'stopped' | 'timeout'): Promise<void> {
    if (this.#life.status === 'ended') return;
    this.#life.beginEnd();
    this.lifetime.stop();
    this.#aborter.abort(new SandboxError('gone', `sandbox ${this.id} was removed`));
    await this.#life.supervisor?.stop(cause);
    while (this.#queue.isBusy) await this.#queue.settle();
    // A restore may have succeeded at the last moment.
    await this.#life.supervisor?.stop(cause);
    if (this.#life.snapshotId !== null) {
      await this.#claim();
      const end = endWithoutVm(cause, 'removed while it was paused', this.#parts.clock.wall());
      // The sandbox exists as long as its row says so.
      const keep = (): Promise<void> => this.#parts.rows.keep(this.#row(null, end));
      await this.#orOwnershipLost(this.#writer.inTurn(keep));
      this.#finish('removed', end);
    }
    await this.#endPersisted.promise;
  }

  /** Waits for saves and resumes under way, which may fail. */
  readonly drain = (): Promise<void> => this.#queue.drain();

  /** For the shutdown of the host: a suspended sandbox stays. */
  async leave(): Promise<void> {
    this.lifetime.stop();
    while (this.#queue.isBusy) await this.#queue.settle();
    if (this.#life.state.kind !== 'suspended') await this.remove();
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
      if (pausedToOf(state) !== null) this.lifetime.start();
      this.#life.move(state, 'continue', { supervisor });
    }
  }

  async #pauseToMemory(from: StateOf<'running'>, stops: 'all' | 'idle' = 'all'): Promise<void> {
    const { supervisor } = from;
    await supervisor.pause();
    this.lifetime.stop(stops);
    this.#life.move(from, 'pause', { supervisor });
    await this.#persist();
  }

  async #pauseToDisk(from: StateOf<'running' | 'paused'>, to: 'disk' | 'disk-only'): Promise<void> {
    const { snapshots } = this.#parts;
    const { annotations } = this.policy;
    const isDiskOnly = to === 'disk-only';
    try {
      await this.#save(from, (supervisor) =>
        snapshots.pause(supervisor, { isDiskOnly, annotations }, (snapshotId, commit) =>
          this.#writer.inTurn(async () => {
            this.#spec = await this.#parts.rows.specToKeep(supervisor);
            await commit(this.#row(snapshotId, this.#life.end, isDiskOnly));
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
    await this.#persist();
  }

  async #restore(from: StateOf<'suspended'>, { signal, reboot = false }: ResumeOptions): Promise<void> {
    const { snapshots, start, rows } = this.#parts;
    const signals = [this.#aborter.signal, ...(signal === undefined ? [] : [signal])];
    this.#life.move(from, 'resume', from);
    try {
      await this.#claim();
      if (this.#spec.network !== null) requireValues(this.id, this.#spec.secrets);
      const extent = reboot || this.#life.isDiskOnly ? 'disk' : 'all';
      await using lease = await snapshots.open(this.#life.snapshotId ?? '', extent, 'meanwhile');
      const owner = { annotations: this.policy.annotations, resumes: this.id };
      const starting = start(this.#spec, lease.source, owner, AbortSignal.any(signals));
      this.#run(await lease.orDamage(starting));
    } catch (error) {
      if (this.#aborter.signal.aborted) throw this.#refusal('resumed');
      const state = this.#life.state;
      if (this.#life.isClaimed) await this.#writer.inTurn(() => rows.release(this.id));
      if (state.kind === 'restoring') {
        this.#life.move(state, 'restore-failed', { ...state, isClaimed: false });
      }
      throw error;
    }
  }

  /** From here on the VM is the truth. Its next row no longer names the snapshot, which is then deleted. */
  #run(supervisor: Supervisor): void {
    const state = this.#life.state;
    this.#adopt(supervisor);
    if (state.kind === 'ending') {
      // The removal stops this VM.
      const inVm = { supervisor, snapshotId: null, isDiskOnly: false, isClaimed: false };
      this.#life.move(state, 'vm-ready', { ...inVm, pausedTo: state.pausedTo });
    } else if (state.kind === 'restoring') {
      this.#life.move(state, 'vm-ready', { supervisor });
      this.#begin();
    }
  }

  #adopt(supervisor: Supervisor): void {
    this.#spec = supervisor.spec;
    this.#timings = this.provenance.origin === 'pool' ? null : (supervisor.timings ?? null);
    supervisor.events.listen((event) => this.events.note(event));
    void supervisor.ended.then((end) => this.#vmEnded(supervisor, end));
  }

  #begin(): void {
    this.lifetime.start();
    void this.#persist();
  }

  #vmEnded(supervisor: Supervisor, end: SandboxEnd): void {
    // Saved: the sandbox is on disk, and another VM will continue it.
    if (this.#life.supervisor !== supervisor || this.#life.snapshotId !== null) return;
    this.#finish('vm-ended', end);
  }

  /** Takes over what another process has changed meanwhile. @throws SandboxError `not_ready`, `gone` */
  async #claim(): Promise<void> {
    if (this.#life.isClaimed) return;
    const row = await this.#orOwnershipLost(this.#parts.rows.claim(this.id));
    const stored = this.#parts.rows.parse(row);
    const { isDiskOnly = this.#life.isDiskOnly } = stored ?? {};
    this.#life.claim({ snapshotId: row.pausedSnapshotId, isDiskOnly });
    if (stored !== null) this.#spec = { ...stored.spec, ...unwritten(stored.spec, this.#spec) };
    this.#policy = stored?.policy ?? this.#policy;
  }

  /** Writes the row, which lets go of a claim. */
  async #release(): Promise<void> {
    this.#life.release();
    this.#parts.onChange(this);
    await this.#persist();
  }

  /** On an error the control plane reads the sandbox from the store again. */
  async #orOwnershipLost<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      this.#parts.onOwnershipLost(this);
      throw error;
    }
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
    void this.#persist().then(() => this.#endPersisted.resolve());
  }

  #apply({ models, ...change }: LifetimeChange): void {
    if (models) this.#spec = changeModels(this.#spec, models, this.#life.supervisor);
    this.#policy = changeLifetime(this.#policy, change);
    const counts = pausedToOf(this.#life.state) === null && this.#life.snapshotId === null;
    if (counts && change.timeoutMs !== undefined) this.lifetime.startTimeout();
    if (counts && change.idleTimeoutMs !== undefined) this.lifetime.startIdle();
    this.#parts.onChange(this);
  }

  #warn(what: string, error: unknown): void {
    const fields = { sandbox: this.id, reason: describeError(error) };
    this.#parts.log.warn(`could not ${what} a sandbox`, fields);
  }

  #persist(): Promise<void> {
    return this.#writer.write(() => this.#row(this.#life.snapshotId));
  }

  #row(pausedSnapshotId: string | null, end = this.#life.end, isDiskOnly = this.#life.isDiskOnly): SandboxRow {
    return this.#parts.rows.make({
      id: this.id,
      provenance: this.provenance,
      spec: this.#spec,
      policy: this.#policy,
      end,
      pausedSnapshotId,
      isDiskOnly,
      isPaused: this.#life.status === 'paused',
      isClaimed: this.#life.isClaimed,
      pauseReason: this.lifetime.pauseReason,
      endsAtMs: this.lifetime.endsAtMs,
    });
  }
}
