/**
 * One sandbox through all its lives: a supervisor owns a VM, this owns the sandbox across several of them.
 *
 *     running ─┬─► saving ─► running                                 snapshot, fork
 *              ├─► saving ─► paused (disk) ─► resuming ─► running
 *              ├─► paused (memory) ─┬─► resuming ─► running
 *              │                    └─► saving ─► paused             snapshot, fork, to disk
 *              └─► ending ─► ended
 *
 * One change at a time; who comes meanwhile waits for his turn. After one that fails it is as it was, or
 * its VM has died and it ends. What is paused on the disk belongs to whoever claims it first.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { Guest } from '../../guest/link.ts';
import type { SandboxRow } from '../../store/sandbox-table.ts';
import type { SnapshotRow } from '../../store/snapshot.ts';
import type { SandboxInfo, SandboxStatus } from '../control.ts';
import { endInfo, endWithoutVm, type SandboxEnd } from '../ending.ts';
import { refusal, SandboxError } from '../errors.ts';
import type { TimedEvent } from '../events.ts';
import type { ResizedEvent } from '../memory-events.ts';
import type { CloneSource, StartTimings } from '../parts.ts';
import {
  changeLifetime,
  type LifetimeChange,
  type LifetimePolicy,
  type Provenance,
} from '../request.ts';
import { requireValues, type SecretOptions } from '../secrets.ts';
import { type NetworkSpec, type SandboxSpec, unwritten, withSecrets } from '../spec.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import type { VmLimits } from '../vm/vm-limits.ts';
import { EventJournal } from './event-journal.ts';
import { activityOf, Lifetime } from './lifetime.ts';
import { sandboxInfo } from './sandbox-info.ts';
import { RowWriter, type SandboxRows } from './sandbox-rows.ts';
import { SerialQueue, SingleFlight } from './serial-queue.ts';
import type { ForkLease, SnapshotManager } from './snapshot-manager.ts';
import { UsageLog } from './usage-log.ts';

/** What a managed sandbox needs of its control plane. */
export interface ManagedParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly accelerator: string;
  readonly snapshots: SnapshotManager;
  readonly rows: SandboxRows;
  /** Queued: a supervisor for `spec` that goes on from `source`, started. */
  start(spec: SandboxSpec, source: CloneSource, signal: AbortSignal): Promise<Supervisor>;
  onChange(sandbox: ManagedSandbox): void;
  /** Something happened to it that may need an answer. */
  onEvent(sandbox: ManagedSandbox, event: TimedEvent): void;
  /** It is on the disk, and what is known of it here may be out of date: another process may have it. */
  onOwnershipLost(sandbox: ManagedSandbox): void;
}

export class ManagedSandbox {
  readonly id: string;
  readonly provenance: Provenance;
  readonly usage = new UsageLog();
  readonly events: EventJournal;
  readonly #parts: ManagedParts;
  readonly #writer: RowWriter;
  readonly #lifetime: Lifetime;
  #spec: SandboxSpec;
  #policy: LifetimePolicy;
  #status: SandboxStatus = 'starting';
  #pausedTo: 'memory' | 'disk' | null = null;
  /** Its state on the disk; set as soon as that counts, so from then on its VM may die. */
  #snapshotId: string | null = null;
  /** Its row on the disk is ours. */
  #isClaimed = false;
  #supervisor: Supervisor | undefined;
  #timings: StartTimings | null = null;
  #readyMs: number | null = null;
  #end: SandboxEnd | null = null;
  readonly #queue = new SerialQueue();
  readonly #resuming = new SingleFlight();
  #removing: Promise<void> | undefined;
  readonly #ended = Promise.withResolvers<void>();
  /** Resolves when its end is on the disk. */
  readonly endPersisted = this.#ended.promise;
  readonly #aborter = new AbortController();

  private constructor(
    parts: ManagedParts,
    spec: SandboxSpec,
    policy: LifetimePolicy,
    provenance: Provenance,
  ) {
    this.#parts = parts;
    this.#spec = spec;
    this.#policy = policy;
    this.id = spec.id;
    this.provenance = provenance;
    this.#writer = new RowWriter(parts.rows);
    this.events = new EventJournal(parts.clock, (event) => parts.onEvent(this, event));
    this.#lifetime = new Lifetime({
      ...{ clock: parts.clock, log: parts.log, sandbox: this.id },
      policy: () => this.#policy,
      activity: () => activityOf(this.#status === 'running' ? this.#supervisor : undefined),
      kill: () => void this.remove('timeout').catch((error: unknown) => this.#warn('end', error)),
      pause: () => this.#queue.run(() => this.#pauseIfRunning()),
    });
  }

  /** One whose VM is ready. */
  static started(
    parts: ManagedParts,
    made: {
      supervisor: Supervisor;
      policy: LifetimePolicy;
      provenance: Provenance;
      readyMs: number;
    },
  ): ManagedSandbox {
    const sandbox = new ManagedSandbox(parts, made.supervisor.spec, made.policy, made.provenance);
    sandbox.#readyMs = made.readyMs;
    sandbox.#run(made.supervisor);
    return sandbox;
  }

  /** One that the store has, paused to disk. */
  static paused(
    parts: ManagedParts,
    made: { spec: SandboxSpec; policy: LifetimePolicy; provenance: Provenance; pauseId: string },
  ): ManagedSandbox {
    const sandbox = new ManagedSandbox(parts, made.spec, made.policy, made.provenance);
    sandbox.#status = 'paused';
    sandbox.#pausedTo = 'disk';
    sandbox.#snapshotId = made.pauseId;
    return sandbox;
  }

  get spec(): SandboxSpec {
    return this.#spec;
  }

  get policy(): LifetimePolicy {
    return this.#policy;
  }

  /** Its snapshot, while it is on the disk and nothing is done about it here; null otherwise. */
  get pausedSnapshotId(): string | null {
    return this.#status === 'paused' && !this.#queue.isBusy ? this.#snapshotId : null;
  }

  info(): SandboxInfo {
    return sandboxInfo(this.#spec, this.#policy, this.provenance, {
      ...{ status: this.#status, pausedTo: this.#pausedTo, endsAtMs: this.#lifetime.endsAtMs },
      ...{ timings: this.#timings, readyMs: this.#readyMs, accelerator: this.#parts.accelerator },
      ...{ end: this.#end, card: this.#supervisor?.card },
    });
  }

  /** That it has now. */
  get vm(): Supervisor['vm'] {
    return this.#supervisor?.vm;
  }

  /** Changes what is given; a time counts anew only if it is given. */
  async change(change: LifetimeChange): Promise<void> {
    if (this.#isOver) throw this.#refusal('changed');
    if (this.#snapshotId === null) {
      this.#apply(change);
      // A pause may come to the disk before the row's turn; from then on it is anybody's.
      await this.#writer.write(() => (this.#snapshotId === null ? this.#row(null) : null));
      if (this.#snapshotId === null) return;
    }
    await this.#queue.run(async () => {
      if (this.#isOver) throw this.#refusal('changed');
      if (this.#snapshotId !== null) await this.#claim();
      this.#apply(change);
      this.#isClaimed = false;
      await this.#persist();
    });
  }

  async setLimits(limits: Partial<VmLimits>): Promise<void> {
    const supervisor = await this.live();
    await supervisor.setLimits(limits);
    this.#spec = supervisor.spec;
  }

  /** Resumes a paused one as `guest` does. */
  async setNetwork(network: NetworkSpec | null): Promise<void> {
    await this.live();
    await this.#changeVm((supervisor) => supervisor.setNetwork(network));
  }

  /** For its owner it resumes a paused one as `guest` does. */
  async resizeMemory(memoryMib: number, by: ResizedEvent['by']): Promise<void> {
    if (by === 'owner') await this.live();
    await this.#changeVm((supervisor) => supervisor.resizeMemory(memoryMib, by));
  }

  /** In its turn, for it may plug, unplug or change a device. */
  async #changeVm(change: (supervisor: Supervisor) => Promise<void>): Promise<void> {
    await this.#queue.run(async () => {
      const supervisor = this.#require('changed', this.#status === 'running');
      await change(supervisor).finally(() => {
        this.#spec = supervisor.spec;
        this.#parts.onChange(this);
      });
    });
  }

  /** What is paused on the disk is given them there, for without values it can't be resumed. */
  async setSecrets(options: readonly SecretOptions[]): Promise<void> {
    // What is wrong is told before anything is claimed or resumed.
    withSecrets(this.#spec, options);
    if (this.#snapshotId === null) await this.live();
    await this.#queue.run(async () => {
      if (this.#isOver) throw this.#refusal('changed');
      if (this.#snapshotId !== null) await this.#claim();
      const spec = withSecrets(this.#spec, options);
      const supervisor =
        this.#snapshotId === null ? this.#require('changed', this.#status === 'running') : null;
      try {
        await supervisor?.setSecrets(spec.secrets, spec.network);
      } finally {
        // They hold from when the gateway has them, also if the guest does not answer: a fork gets the same.
        this.#spec = supervisor?.spec ?? spec;
        this.#isClaimed = false;
        this.#parts.onChange(this);
        await this.#persist();
      }
    });
  }

  /** The guest's operations; resumes a paused one if its policy allows it. */
  async guest(): Promise<Guest> {
    return (await this.live()).guest();
  }

  /** Its VM, running. @throws SandboxError `not_ready`, `gone`, and what resuming may throw */
  async live(): Promise<Supervisor> {
    for (;;) {
      while (this.#queue.isBusy) await this.#queue.settle();
      if (this.#status === 'running' && this.#supervisor !== undefined) {
        this.#lifetime.touch();
        return this.#supervisor;
      }
      if (this.#status !== 'paused') throw this.#refusal('used');
      if (!this.#policy.autoResume) throw this.#refusal('used', 'resume it first');
      await this.resume();
    }
  }

  async pause(to: 'memory' | 'disk'): Promise<void> {
    await this.#queue.run(async () => {
      const isPossible = this.#status === 'running' || (to === 'disk' && this.#isInMemory);
      const supervisor = this.#require('paused', isPossible);
      await (to === 'memory' ? this.#pauseToMemory(supervisor) : this.#pauseToDisk(supervisor));
    });
  }

  /** For want of room on the host, in memory; its time goes on. See `full-disk.ts`. */
  async pauseStalled(): Promise<boolean> {
    return await this.#queue.run(() => this.#pauseIfRunning(true));
  }

  /** Of one that runs: nothing. Two at once are one. */
  async resume(signal?: AbortSignal): Promise<void> {
    await this.#resuming.run(
      () => this.#queue.run(() => this.#resume(signal)),
      () => this.#isOver || signal?.aborted === true,
    );
  }

  /** Goes on as it was before: running, or paused. */
  async snapshot(name: string | null): Promise<SnapshotRow> {
    const { snapshots } = this.#parts;
    return await this.#copied(
      (pauseId) => snapshots.copy(pauseId, name),
      (supervisor) => snapshots.snapshot(supervisor, name),
    );
  }

  /** What forks of it start from. */
  async acquireForkSource(): Promise<ForkLease> {
    const { snapshots } = this.#parts;
    return await this.#copied<ForkLease>(
      (pauseId) => snapshots.open(pauseId),
      (supervisor) => snapshots.acquireForkSource(supervisor),
    );
  }

  /** Resolves when nothing is left. Idempotent. @throws SandboxError `not_ready`: another process has it */
  remove(cause: 'stopped' | 'timeout' = 'stopped'): Promise<void> {
    this.#removing ??= this.#remove(cause);
    return this.#removing;
  }

  async #remove(cause: 'stopped' | 'timeout'): Promise<void> {
    if (this.#status === 'ended') return;
    this.#become('ending');
    this.#lifetime.stop();
    this.#aborter.abort(new SandboxError('gone', `sandbox ${this.id} was removed`));
    await this.#supervisor?.stop(cause);
    while (this.#queue.isBusy) await this.#queue.settle();
    // A resume may have come through at the last moment.
    await this.#supervisor?.stop(cause);
    if (this.#snapshotId !== null) {
      await this.#claim();
      const end = endWithoutVm(cause, 'removed while it was paused', this.#parts.clock.wall());
      // As long as its row says that it is there, it is.
      const keep = (): Promise<void> => this.#parts.rows.keep(this.#row(null, end));
      await this.#orLost(this.#writer.inTurn(keep));
      this.#over(end);
    }
    await this.#ended.promise;
  }

  /** For the end of the host: what is on the disk stays there. */
  async leave(): Promise<void> {
    this.#lifetime.stop();
    while (this.#queue.isBusy) await this.#queue.settle();
    if (this.#status !== 'paused' || this.#snapshotId === null) await this.remove();
  }

  async #copied<T>(
    ofPause: (pauseId: string) => Promise<T>,
    ofVm: (supervisor: Supervisor) => Promise<T>,
  ): Promise<T> {
    return await this.#queue.run(async () => {
      if (this.#status === 'paused' && this.#snapshotId !== null)
        return await ofPause(this.#snapshotId);
      const supervisor = this.#require('saved', this.#status === 'running' || this.#isInMemory);
      return await this.#saving(supervisor, () => ofVm(supervisor));
    });
  }

  /** One that is paused in memory runs for it, and stands still again afterwards. */
  async #saving<T>(supervisor: Supervisor, work: () => Promise<T>): Promise<T> {
    const wasPaused = this.#isInMemory;
    this.#become('saving');
    try {
      if (wasPaused) await supervisor.resume();
      return await work();
    } finally {
      if (this.#snapshotId === null) await this.#back(supervisor, wasPaused);
    }
  }

  /** It is again what it was, as far as its VM is; one that has died tells of its end itself. */
  async #back(supervisor: Supervisor, toPaused: boolean): Promise<void> {
    if (toPaused && supervisor.state === 'ready') {
      await supervisor.pause().catch((error: unknown) => this.#warn('pause again', error));
    }
    if (supervisor.state === 'paused') this.#become('paused');
    else if (supervisor.state !== 'ready') this.#become('ending');
    else {
      if (this.#pausedTo !== null) this.#lifetime.start();
      this.#pausedTo = null;
      this.#become('running');
    }
  }

  async #pauseToMemory(supervisor: Supervisor, stops: 'all' | 'idle' = 'all'): Promise<void> {
    await supervisor.pause();
    this.#lifetime.stop(stops);
    this.#pausedTo = 'memory';
    this.#become('paused');
    await this.#persist();
  }

  async #pauseToDisk(supervisor: Supervisor): Promise<void> {
    try {
      await this.#saving(supervisor, () =>
        this.#parts.snapshots.pause(supervisor, (snapshotId, commit) =>
          this.#writer.inTurn(async () => {
            this.#spec = { ...supervisor.spec, network: await supervisor.card.networkToKeep() };
            await commit(this.#row(snapshotId));
            this.#snapshotId = snapshotId;
          }),
        ),
      );
    } finally {
      if (this.#snapshotId !== null) {
        this.#lifetime.stop();
        this.#supervisor = undefined;
        this.#pausedTo = 'disk';
        this.#become('paused');
      }
    }
  }

  /** For want of time, or of room. */
  async #pauseIfRunning(isForRoom = false): Promise<boolean> {
    if (this.#status !== 'running') return false;
    const supervisor = this.#require('paused', true);
    if (isForRoom && !supervisor.isStalled) return false;
    await (isForRoom ? this.#pauseToMemory(supervisor, 'idle') : this.#pauseToDisk(supervisor));
    return true;
  }

  async #resume(signal: AbortSignal | undefined): Promise<void> {
    if (this.#status === 'running') return;
    if (this.#status !== 'paused') throw this.#refusal('resumed');
    this.#become('resuming');
    const supervisor = this.#supervisor;
    if (supervisor === undefined) return await this.#resumeFromDisk(signal);
    await supervisor.resume().finally(() => this.#back(supervisor, false));
    await this.#persist();
  }

  async #resumeFromDisk(signal: AbortSignal | undefined): Promise<void> {
    const { snapshots, start, rows } = this.#parts;
    const signals = [this.#aborter.signal, ...(signal === undefined ? [] : [signal])];
    try {
      await this.#claim();
      if (this.#spec.network !== null) requireValues(this.id, this.#spec.secrets);
      await using held = await snapshots.open(this.#snapshotId ?? '');
      const supervisor = await start(this.#spec, held.source, AbortSignal.any(signals));
      // From here on the VM is the truth; its row lets go of the snapshot, which then goes.
      this.#run(supervisor);
    } catch (error) {
      if (this.#aborter.signal.aborted) throw this.#refusal('resumed');
      if (this.#isClaimed) await this.#writer.inTurn(() => rows.giveBack(this.id));
      this.#isClaimed = false;
      this.#become('paused');
      throw error;
    }
  }

  #run(supervisor: Supervisor): void {
    this.#spec = supervisor.spec;
    this.#supervisor = supervisor;
    this.#timings = this.provenance.origin === 'pool' ? null : (supervisor.timings ?? null);
    this.#pausedTo = this.#snapshotId = null;
    this.#isClaimed = false;
    supervisor.events.listen((event) => this.events.note(event));
    void supervisor.ended.then((end) => {
      // On the disk: another VM will go on with it.
      if (this.#supervisor === supervisor && this.#snapshotId === null) this.#over(end);
    });
    // Who removes it stops this VM.
    if (this.#status === 'ending') return;
    this.#become('running');
    this.#lifetime.start();
    void this.#persist();
  }

  /** What another process has changed meanwhile is taken over. @throws SandboxError `not_ready`, `gone` */
  async #claim(): Promise<void> {
    if (this.#isClaimed) return;
    const row = await this.#orLost(this.#parts.rows.claim(this.id));
    const stored = this.#parts.rows.parse(row);
    this.#isClaimed = true;
    this.#snapshotId = row.pausedSnapshotId;
    if (stored !== null) this.#spec = { ...stored.spec, ...unwritten(stored.spec, this.#spec) };
    this.#policy = stored?.policy ?? this.#policy;
  }

  /** What holds of it then is read from the store again. */
  async #orLost<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      this.#parts.onOwnershipLost(this);
      throw error;
    }
  }

  get #isInMemory(): boolean {
    return this.#status === 'paused' && this.#snapshotId === null;
  }

  get #isOver(): boolean {
    return this.#status === 'ending' || this.#status === 'ended';
  }

  #require(what: string, isPossible: boolean): Supervisor {
    if (!isPossible || this.#supervisor === undefined) throw this.#refusal(what);
    return this.#supervisor;
  }

  #refusal(what: string, remedy?: string): SandboxError {
    return refusal(this.id, this.#status, what, remedy);
  }

  #become(status: SandboxStatus): void {
    if (this.#isOver) return;
    this.#status = status;
    this.#parts.onChange(this);
  }

  #over(end: SandboxEnd): void {
    if (this.#end !== null) return;
    this.#lifetime.stop();
    this.#end = end;
    this.#supervisor = undefined;
    this.#pausedTo = this.#snapshotId = null;
    this.#status = 'ended';
    this.events.note({ type: 'end', end: endInfo(end) });
    this.#parts.onChange(this);
    void this.#persist().then(() => this.#ended.resolve());
  }

  #apply(change: LifetimeChange): void {
    this.#policy = changeLifetime(this.#policy, change);
    const counts = this.#pausedTo === null && this.#snapshotId === null;
    if (counts && change.timeoutMs !== undefined) this.#lifetime.startTimeout();
    if (counts && change.idleTimeoutMs !== undefined) this.#lifetime.startIdle();
    this.#parts.onChange(this);
  }

  #warn(what: string, error: unknown): void {
    const why = { sandbox: this.id, reason: describeError(error) };
    this.#parts.log.warn(`could not ${what} a sandbox`, why);
  }

  #persist(): Promise<void> {
    return this.#writer.write(() => this.#row(this.#snapshotId));
  }

  #row(pausedSnapshotId: string | null, end = this.#end): SandboxRow {
    return this.#parts.rows.make({
      ...{ id: this.id, provenance: this.provenance, spec: this.#spec, policy: this.#policy, end },
      ...{ pausedSnapshotId, isPaused: this.#status === 'paused', isClaimed: this.#isClaimed },
      endsAtMs: this.#lifetime.endsAtMs,
    });
  }
}
