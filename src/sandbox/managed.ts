/**
 * One sandbox through all its lives: a supervisor owns a VM, this owns the sandbox across several of them.
 *
 *     starting ─► running ─┬─► saving ─► running            snapshot, fork
 *                          ├─► saving ─► paused (disk) ─► resuming ─► running
 *                          ├─► paused (memory) ─► running
 *                          └─► ending ─► ended
 *
 * One change of state at a time; who comes meanwhile waits or is refused. Times run here: what happens when
 * its time is over, or when it has been idle.
 */
import type { ChannelLimits } from '../base/channel.ts';
import type { Clock } from '../base/clock.ts';
import { describeError } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import type { Log } from '../base/log.ts';
import type { UsageRecord } from '../bridge/bridge.ts';
import type { Guest } from '../guest/link.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';
import type { SnapshotRow } from '../store/snapshot.ts';
import type { SandboxChange, SandboxInfo, SandboxStatus } from './control.ts';
import { SandboxError } from './errors.ts';
import { IdleWatch } from './idle-watch.ts';
import type { HeldSource, Keeper } from './keeper.ts';
import type { CloneSource, SandboxEnd, StartTimings } from './parts.ts';
import type { SandboxSpec } from './spec.ts';
import type { Supervisor } from './supervisor.ts';

/** What was asked for beside the VM itself. */
export interface Terms {
  readonly timeoutMs: number | null;
  readonly onTimeout: 'kill' | 'pause';
  readonly idleTimeoutMs: number | null;
  readonly autoResume: boolean;
  readonly metadata: Readonly<Record<string, string>>;
}

export interface Birth {
  readonly origin: SandboxInfo['origin'];
  readonly snapshot: string | null;
  readonly parent: string | null;
  readonly createdAtMs: number;
}

/** What it needs of the host. */
export interface ManagedParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly accelerator: string;
  readonly keeper: Keeper;
  /** Queued: a supervisor for `spec` that goes on from `source`, started. */
  start(spec: SandboxSpec, source: CloneSource, signal: AbortSignal): Promise<Supervisor>;
  /** Writes the row; failures are logged by the host. */
  persist(row: SandboxRow): Promise<void>;
  readonly ownerJson: string;
  changed(sandbox: ManagedSandbox): void;
}

/** Requests to the model that are kept to be read. */
const USAGE_MAX = 256;
/** After a pause for want of time failed. */
const RETRY_PAUSE_MS = 60_000;

export class ManagedSandbox {
  readonly id: string;
  readonly birth: Birth;
  readonly #parts: ManagedParts;
  #spec: SandboxSpec;
  #terms: Terms;
  #status: SandboxStatus;
  #pausedTo: 'memory' | 'disk' | null = null;
  #pauseId: string | null = null;
  #supervisor: Supervisor | undefined;
  #timings: StartTimings | null = null;
  #readyMs: number | null = null;
  #end: SandboxEnd | null = null;
  #endsAtMs: number | null = null;
  #cancelTimeout: () => void = () => undefined;
  readonly #idle: IdleWatch;
  readonly #usage: UsageRecord[] = [];
  /** The change of state that is under way. */
  #changing: Promise<unknown> | undefined;
  #resuming: Promise<void> | undefined;
  #removing: Promise<void> | undefined;
  readonly #ended = Promise.withResolvers<void>();
  readonly #aborter = new AbortController();

  private constructor(parts: ManagedParts, spec: SandboxSpec, terms: Terms, birth: Birth) {
    this.#parts = parts;
    this.#spec = spec;
    this.#terms = terms;
    this.#status = 'starting';
    this.id = spec.id;
    this.birth = birth;
    this.#idle = new IdleWatch({
      clock: parts.clock,
      read: () => this.#activity(),
      onIdle: () => this.#pauseByItself('it was idle'),
    });
  }

  /** One whose VM is being started; `running` or `failed` comes next. */
  static starting(
    parts: ManagedParts,
    made: { spec: SandboxSpec; terms: Terms; birth: Birth },
  ): ManagedSandbox {
    return new ManagedSandbox(parts, made.spec, made.terms, made.birth);
  }

  /** One that the store has, paused to disk. */
  static paused(
    parts: ManagedParts,
    made: { spec: SandboxSpec; terms: Terms; birth: Birth; pauseId: string },
  ): ManagedSandbox {
    const sandbox = new ManagedSandbox(parts, made.spec, made.terms, made.birth);
    sandbox.#status = 'paused';
    sandbox.#pausedTo = 'disk';
    sandbox.#pauseId = made.pauseId;
    return sandbox;
  }

  get status(): SandboxStatus {
    return this.#status;
  }

  /** Resolves when nothing of it is left. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  get spec(): SandboxSpec {
    return this.#spec;
  }

  get terms(): Terms {
    return this.#terms;
  }

  get usage(): readonly UsageRecord[] {
    return this.#usage;
  }

  /** Aborted when it is being removed. */
  get removed(): AbortSignal {
    return this.#aborter.signal;
  }

  get supervisor(): Supervisor | undefined {
    return this.#supervisor;
  }

  /** Its VM is ready. */
  running(supervisor: Supervisor, readyMs: number | null): void {
    this.#spec = supervisor.spec;
    this.#supervisor = supervisor;
    this.#timings = this.birth.origin === 'pool' ? null : (supervisor.timings ?? null);
    this.#readyMs ??= readyMs;
    this.#pausedTo = null;
    this.#pauseId = null;
    this.#become('running');
    this.#startTimes();
    void supervisor.ended.then((end) => {
      // Saved: another VM will go on with it.
      if (end.cause !== 'saved') this.#over(end);
    });
    if (this.#status === 'running') void this.#persist();
    else void supervisor.stop();
  }

  /** It never got a VM. */
  failed(detail: string): void {
    this.#over({ cause: 'start-failed', detail, console: '' });
  }

  noteUsage(record: UsageRecord): void {
    this.#usage.push(record);
    if (this.#usage.length > USAGE_MAX) this.#usage.shift();
  }

  info(): SandboxInfo {
    const { cpus, memoryMib, diskMib } = this.#spec;
    const { metadata, onTimeout, idleTimeoutMs, autoResume } = this.#terms;
    const { origin, snapshot, parent, createdAtMs } = this.birth;
    const end = this.#end;
    return {
      ...{ id: this.id, status: this.#status, pausedTo: this.#pausedTo },
      ...{ cpus, memoryMib, diskMib, metadata, origin, snapshot, parent },
      accelerator: this.#parts.accelerator,
      ...{ createdAtMs, endsAtMs: this.#endsAtMs, onTimeout, idleTimeoutMs, autoResume },
      ...{ timings: this.#timings, readyMs: this.#readyMs },
      end: end === null ? null : { cause: end.cause, detail: end.detail },
    };
  }

  change(change: Omit<SandboxChange, 'channelLimits'>): void {
    const given = Object.entries(change).filter(([, value]) => value !== undefined);
    this.#terms = { ...this.#terms, ...Object.fromEntries(given) };
    if (this.#status === 'running') this.#startTimes();
    this.#parts.changed(this);
    void this.#persist();
  }

  async setChannelLimits(limits: ChannelLimits): Promise<void> {
    const supervisor = await this.live();
    await supervisor.setChannelLimits(limits);
    this.#spec = supervisor.spec;
  }

  /** The guest's operations; resumes a paused one if its terms say so. */
  async guest(): Promise<Guest> {
    return (await this.live()).guest();
  }

  /** Its VM, running. @throws SandboxError `not_ready`, `gone`, and what resuming may throw */
  async live(): Promise<Supervisor> {
    while (this.#status !== 'running') {
      if (this.#changing !== undefined) {
        await this.#changing.catch((error: unknown) => ignore(error, 'told to who asked for it'));
        continue;
      }
      if (this.#status !== 'paused') throw this.#refusal('used');
      if (!this.#terms.autoResume) throw this.#refusal('used', 'resume it first');
      await this.resume();
    }
    if (this.#supervisor === undefined) throw this.#refusal('used');
    this.#idle.touch();
    return this.#supervisor;
  }

  async pause(to: 'memory' | 'disk'): Promise<void> {
    if (this.#status === 'paused' && this.#pausedTo === 'memory' && to === 'disk') {
      await this.resume();
    }
    await this.#change('paused', ['running'], async (supervisor) => {
      if (to === 'memory') await this.#pauseToMemory(supervisor);
      else await this.#pauseToDisk(supervisor);
    });
  }

  /** Of one that runs: nothing. Two at once are one. */
  async resume(signal?: AbortSignal): Promise<void> {
    while (this.#resuming === undefined && this.#changing !== undefined) {
      await this.#changing.catch((error: unknown) => ignore(error, 'told to who asked for it'));
    }
    if (this.#status === 'running') return;
    this.#resuming ??= this.#resume(signal).finally(() => {
      this.#resuming = undefined;
    });
    await this.#resuming;
  }

  /** Goes on as it was before: running, or paused. */
  async snapshot(name: string | null): Promise<SnapshotRow> {
    const { keeper } = this.#parts;
    if (this.#status === 'paused' && this.#pauseId !== null) {
      return await this.#parts.keeper.copy(this.#pauseId, name);
    }
    await keeper.requireFreeName(name);
    return await this.#saving((supervisor) => keeper.snapshot(supervisor, name));
  }

  /** What forks of it start from. */
  async hold(): Promise<HeldSource> {
    const { keeper } = this.#parts;
    if (this.#status === 'paused' && this.#pauseId !== null) {
      return await keeper.open(this.#pauseId);
    }
    return await this.#saving((supervisor) => keeper.hold(supervisor));
  }

  /** Resolves when nothing is left. Idempotent. */
  remove(cause: 'stopped' | 'timeout' = 'stopped'): Promise<void> {
    this.#removing ??= this.#remove(cause);
    return this.#removing;
  }

  async #remove(cause: 'stopped' | 'timeout'): Promise<void> {
    if (this.#status === 'ended') return;
    const isStarting = this.#status === 'starting';
    this.#become('ending');
    this.#stopTimes();
    this.#aborter.abort(new SandboxError('gone', `sandbox ${this.id} was removed`));
    await this.#supervisor?.stop(cause);
    await this.#changing?.catch((error: unknown) => ignore(error, 'told to who asked for it'));
    // A resume may have come through at the last moment.
    await this.#supervisor?.stop(cause);
    // Who starts it tells of its end.
    if (!isStarting) this.#over({ cause, detail: 'removed while it was paused', console: '' });
    await this.#ended.promise;
  }

  /** For the end of the host: what is on the disk stays there. */
  async leave(): Promise<void> {
    this.#stopTimes();
    await this.#changing?.catch((error: unknown) => ignore(error, 'told to who asked for it'));
    if (this.#status === 'paused' && this.#pausedTo === 'disk') return;
    await this.remove();
  }

  async #saving<T>(work: (supervisor: Supervisor) => Promise<T>): Promise<T> {
    const wasPaused = this.#status === 'paused';
    if (wasPaused) await this.resume();
    const result = await this.#change('saved', ['running'], async (supervisor) => {
      this.#become('saving');
      try {
        return await work(supervisor);
      } finally {
        if (this.#status === 'saving') this.#become('running');
      }
    });
    if (wasPaused) await this.pause('memory');
    return result;
  }

  async #pauseToMemory(supervisor: Supervisor): Promise<void> {
    await supervisor.pause();
    this.#stopTimes();
    this.#pausedTo = 'memory';
    this.#become('paused');
    await this.#persist();
  }

  async #pauseToDisk(supervisor: Supervisor): Promise<void> {
    this.#stopTimes();
    this.#become('saving');
    try {
      this.#pauseId = await this.#parts.keeper.pause(supervisor, (snapshotId) =>
        this.#row('paused', snapshotId),
      );
      this.#supervisor = undefined;
      this.#pausedTo = 'disk';
      if (this.#status === 'saving') this.#become('paused');
    } finally {
      if (this.#status === 'saving') {
        this.#become('running');
        this.#startTimes();
      }
    }
  }

  async #resume(signal: AbortSignal | undefined): Promise<void> {
    if (this.#status !== 'paused') throw this.#refusal('resumed');
    await this.#exclusive(async () => {
      this.#become('resuming');
      try {
        await (this.#pauseId === null ? this.#resumeInMemory() : this.#resumeFromDisk(signal));
      } finally {
        if (this.#status === 'resuming') this.#become('paused');
      }
    });
  }

  async #resumeInMemory(): Promise<void> {
    const supervisor = this.#supervisor;
    if (supervisor === undefined) throw this.#refusal('resumed');
    await supervisor.resume();
    this.#pausedTo = null;
    this.#become('running');
    this.#startTimes();
    await this.#persist();
  }

  async #resumeFromDisk(signal: AbortSignal | undefined): Promise<void> {
    const { keeper, start } = this.#parts;
    const signals = [this.#aborter.signal, ...(signal === undefined ? [] : [signal])];
    const held = await keeper.open(this.#pauseId ?? '');
    try {
      const supervisor = await start(this.#spec, held.source, AbortSignal.any(signals));
      // From here on the VM is the truth; its row lets go of the snapshot, which then goes.
      this.running(supervisor, null);
    } finally {
      await held.release();
    }
  }

  async #change<T>(
    what: string,
    from: readonly SandboxStatus[],
    work: (supervisor: Supervisor) => Promise<T>,
  ): Promise<T> {
    const supervisor = this.#supervisor;
    const isFree = this.#changing === undefined && from.includes(this.#status);
    if (!isFree || supervisor === undefined) throw this.#refusal(what);
    return await this.#exclusive(() => work(supervisor));
  }

  async #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const changing = work();
    this.#changing = changing;
    try {
      return await changing;
    } finally {
      if (this.#changing === changing) this.#changing = undefined;
    }
  }

  #refusal(what: string, remedy?: string): SandboxError {
    const isOver = this.#status === 'ended' || this.#status === 'ending';
    const text = `sandbox ${this.id} can't be ${what}: it is ${this.#status}`;
    return new SandboxError(
      isOver ? 'gone' : 'not_ready',
      text,
      remedy === undefined ? {} : { remedy },
    );
  }

  #become(status: SandboxStatus): void {
    if (this.#status === 'ended' || (this.#status === 'ending' && status !== 'ended')) return;
    this.#status = status;
    this.#parts.changed(this);
  }

  #over(end: SandboxEnd): void {
    if (this.#end !== null) return;
    this.#stopTimes();
    this.#end = end;
    this.#supervisor = undefined;
    this.#pausedTo = null;
    this.#pauseId = null;
    this.#status = 'ended';
    this.#parts.changed(this);
    void this.#persist().then(() => this.#ended.resolve());
  }

  #startTimes(): void {
    this.#stopTimes();
    const { clock } = this.#parts;
    const { timeoutMs, idleTimeoutMs } = this.#terms;
    if (timeoutMs !== null) {
      this.#endsAtMs = Math.round(clock.wall() + timeoutMs);
      this.#cancelTimeout = clock.after(timeoutMs, () => this.#timeIsOver());
    }
    this.#idle.start(idleTimeoutMs);
  }

  #stopTimes(): void {
    this.#cancelTimeout();
    this.#endsAtMs = null;
    this.#idle.stop();
  }

  #timeIsOver(): void {
    if (this.#terms.onTimeout === 'kill') void this.remove('timeout');
    else this.#pauseByItself('its time is over');
  }

  #pauseByItself(why: string): void {
    const { log, clock } = this.#parts;
    this.pause('disk').then(
      () => log.info('a sandbox was paused', { sandbox: this.id, why }),
      (error: unknown) => {
        if (this.#status === 'ended') return;
        log.warn('a sandbox could not be paused; it is tried again', {
          ...{ sandbox: this.id, why, error: describeError(error) },
        });
        this.#cancelTimeout = clock.after(RETRY_PAUSE_MS, () => this.#pauseByItself(why));
      },
    );
  }

  async #activity(): Promise<{ readonly busy: boolean; readonly bytes: number } | null> {
    const supervisor = this.#supervisor;
    if (supervisor?.vm === undefined || this.#status !== 'running') return null;
    const stats = await supervisor.vm.channelStats();
    const bytes = stats.bytesGuestToHost + stats.bytesHostToGuest;
    // One connection is the agent's own.
    return { busy: stats.connectionsOpen > 1 || supervisor.modelRequests > 0, bytes };
  }

  async #persist(): Promise<void> {
    const status = this.#end !== null ? 'ended' : this.#status === 'paused' ? 'paused' : 'running';
    await this.#parts.persist(this.#row(status, this.#pauseId));
  }

  #row(status: SandboxRow['status'], pausedSnapshotId: string | null): SandboxRow {
    const { clock, ownerJson } = this.#parts;
    const { timeoutMs, onTimeout, idleTimeoutMs, autoResume, metadata } = this.#terms;
    const { origin, createdAtMs, parent, snapshot } = this.birth;
    const onDisk = status === 'paused' && pausedSnapshotId !== null;
    const terms = { timeoutMs, onTimeout, idleTimeoutMs, autoResume };
    return {
      id: this.id,
      // What is on the disk is nobody's: whoever resumes it takes it.
      ownerJson: onDisk || status === 'ended' ? null : ownerJson,
      status,
      requestJson: JSON.stringify({ spec: this.#spec, terms, origin }),
      ...{ metadata, createdAtMs, endsAtMs: this.#endsAtMs, pausedSnapshotId, parent, snapshot },
      end:
        this.#end === null
          ? null
          : { cause: this.#end.cause, detail: this.#end.detail, atMs: Math.floor(clock.wall()) },
    };
  }
}
