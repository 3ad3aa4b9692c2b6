/**
 * Watches the host's memory, and frees some before the kernel's OOM killer would (`host-guard.ts` decides). Sandboxes
 * that it pauses resume at their next use, as after any pause to disk.
 *
 * All I/O is injected as parts.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { awaitOr, ignore, tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { orAborted, timeLimit } from '../../base/time-limit.ts';
import { MIB } from '../../base/units.ts';
import type { SandboxInfo } from '../contract/control.ts';
import type { EventSink } from '../contract/events.ts';
import {
  actionFor,
  actionForResume,
  type MemoryMarks,
  type MemoryShort,
  type PauseCandidate,
  Shortage,
} from '../memory/host-guard.ts';
import type { Pools } from '../start/pools.ts';
import type { StartQueue } from '../start/start-queue.ts';
import type { Lifetime } from './lifetime.ts';

export const GUARD_LIMITS = {
  /** Interval between two checks: there is no notification. */
  lookMs: 250,
  /** After this time, the next sandbox is tried; the pause continues. */
  pauseMsMax: 60_000,
  /** Timeout for a device's answer whether its sandbox is busy. */
  answerMsMax: 1000,
  /** Time that a start waits for memory before unused memory is freed for it, or, for a resume, a sandbox is paused. */
  memoryWaitMs: 2000,
  /** No further attempt for this time on a sandbox that could not be paused. */
  holdOffMs: 60_000,
} as const;

export interface GuardedSandbox {
  readonly id: string;
  readonly events: EventSink;
  readonly lifetime: Pick<Lifetime, 'idleMs' | 'isBusy' | 'pauseForMemory'>;
  info(): Pick<SandboxInfo, 'status' | 'pausedTo'>;
}

export interface GuardedHost {
  sandboxes(): readonly GuardedSandbox[];
  readonly pools: Pick<Pools, 'readyMembers' | 'endMember'>;
}

export interface MemoryGuardParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly host: GuardedHost;
  readonly queue: Pick<StartQueue, 'refuseStarts' | 'holdStarts' | 'memoryWaitMs' | 'resumeWaitMs'>;
  readonly policy: MemoryShort;
  readonly marks: MemoryMarks;
  readonly availableMib: () => number;
  readonly sharedRam: {
    /** Bytes of shared memory without users. */
    readonly unusedBytes: number;
    dropUnused(): Promise<void>;
  };
}

const REMEDY =
  'add memory to the host, or start fewer or smaller sandboxes; a paused one resumes at its next use (docs/memory.md)';

export class MemoryGuard {
  readonly #parts: MemoryGuardParts;
  readonly #shortage: Shortage;
  /** Time of the last failed pause of each sandbox. */
  readonly #failedAtMs = new WeakMap<GuardedSandbox, number>();
  #cancelLook: () => void = () => undefined;
  #acting: Promise<void> | undefined;
  #isRefusing = false;
  readonly #closer = new AbortController();

  constructor(parts: MemoryGuardParts) {
    this.#parts = parts;
    this.#shortage = new Shortage(parts.marks);
  }

  start(): void {
    this.#cancelLook = this.#parts.clock.after(GUARD_LIMITS.lookMs, () => this.#look());
  }

  /** A pause under way continues. Idempotent. */
  async close(): Promise<void> {
    this.#closer.abort();
    this.#cancelLook();
    await this.#acting;
    this.#parts.queue.holdStarts(false);
  }

  #look(): void {
    this.start();
    const { queue, sharedRam } = this.#parts;
    const availableMib = this.#read();
    if (availableMib === null) return;
    const wasShort = this.#shortage.isShort;
    const isShort = this.#shortage.take(availableMib);
    // Memory that a pause frees is not for starts; otherwise the next sandbox would be paused for them.
    queue.holdStarts(isShort);
    if (wasShort && !isShort) this.#setEnough(availableMib);
    if (this.#acting !== undefined) return;
    const isForResume = queue.resumeWaitMs >= GUARD_LIMITS.memoryWaitMs;
    const isForStart = queue.memoryWaitMs >= GUARD_LIMITS.memoryWaitMs && sharedRam.unusedBytes > 0;
    if (!isShort && !isForResume && !isForStart) return;
    this.#acting = this.#act(availableMib, isShort).finally(() => {
      this.#acting = undefined;
    });
  }

  /** `null` if unknown, for example when the process is out of file descriptors. */
  #read(): number | null {
    return tryOr(null, 'the next look reads it again', () => Math.floor(this.#parts.availableMib()));
  }

  /** Never rejects. */
  async #act(availableMib: number, isShort: boolean): Promise<void> {
    const { host, policy, log, sharedRam } = this.#parts;
    try {
      const { unusedBytes } = sharedRam;
      const poolMembers = host.pools.readyMembers();
      const isEasy = policy === 'refuse' || unusedBytes > 0 || poolMembers > 0;
      const all = isEasy ? [] : host.sandboxes();
      const candidates = await Promise.all(all.map((one) => this.#candidateOf(one)));
      // Memory may be enough again by now.
      if (this.#closer.signal.aborted || this.#shortage.isShort !== isShort) return;
      const known = candidates.filter((one) => one !== null);
      const decide = isShort ? actionFor : actionForResume;
      const action = decide({ policy, unusedBytes, poolMembers, candidates: known });
      if (action.do === 'refuse' && !this.#shortage.takeLast(availableMib)) {
        this.#setEnough(availableMib);
        return;
      }
      this.#setRefusing(action.do === 'refuse', availableMib);
      if (action.do === 'drop-unused') {
        const unusedMib = Math.round(unusedBytes / MIB);
        const fields = { availableMib, unusedMib };
        log.info('the memory of the host is short: shared memory without a user is dropped', fields);
        await sharedRam.dropUnused();
      }
      if (action.do === 'end-pool-member') {
        log.warn('the memory of the host is short: an idle member of a pool is ended', { availableMib });
        await host.pools.endMember();
      }
      if (action.do !== 'pause') return;
      const chosen = all.find(({ id }) => id === action.id);
      if (chosen !== undefined) await this.#pause(chosen, availableMib);
    } catch (error) {
      log.error('the guard of the memory failed', { reason: describeError(error) });
    }
  }

  async #candidateOf(sandbox: GuardedSandbox): Promise<PauseCandidate | null> {
    const { clock } = this.#parts;
    const { id, lifetime } = sandbox;
    const { status, pausedTo } = sandbox.info();
    const isPaused = status === 'paused' && pausedTo === 'memory';
    if (status !== 'running' && !isPaused) return null;
    const failedAtMs = this.#failedAtMs.get(sandbox) ?? Number.NEGATIVE_INFINITY;
    const isHeldOff = clock.now() - failedAtMs < GUARD_LIMITS.holdOffMs;
    const isBusy = !isPaused && !isHeldOff && (await this.#isBusy(lifetime));
    return { id, isBusy, isPaused, idleMs: lifetime.idleMs, isHeldOff };
  }

  async #isBusy(lifetime: GuardedSandbox['lifetime']): Promise<boolean> {
    using limit = timeLimit(this.#parts.clock, GUARD_LIMITS.answerMsMax, this.#closer.signal);
    return await awaitOr(true, 'a sandbox without an answer counts as busy', () =>
      orAborted(lifetime.isBusy(), limit.signal),
    );
  }

  async #pause(sandbox: GuardedSandbox, availableMib: number): Promise<void> {
    const { clock, log } = this.#parts;
    const { id, events, lifetime } = sandbox;
    const idleS = Math.round(lifetime.idleMs / 1000);
    const action = { type: 'action', action: 'pause' } as const;
    const why = `the memory of the host was short: ${availableMib} MiB were available`;
    const note = (isPaused: boolean): void => {
      // The sandbox ended, or was changed by another caller meanwhile.
      if (!isPaused) return;
      events.note({ ...action, ok: true, detail: why });
      const fields = { sandbox: id, availableMib, idleS, remedy: REMEDY };
      log.warn('the memory of the host is short: a sandbox was paused to disk', fields);
    };
    using limit = timeLimit(clock, GUARD_LIMITS.pauseMsMax, this.#closer.signal);
    const paused = lifetime.pauseForMemory();
    try {
      note(await orAborted(paused, limit.signal));
    } catch (error) {
      if (this.#closer.signal.aborted) return;
      this.#failedAtMs.set(sandbox, clock.now());
      const reason = describeError(error);
      events.note({ ...action, ok: false, detail: `${why}; ${reason}` });
      const fields = { sandbox: id, availableMib, reason };
      log.warn('the memory of the host is short, and a sandbox could not be paused', fields);
      // A large sandbox may take longer.
      if (limit.signal.aborted) paused.then(note, (late: unknown) => ignore(late, 'it was told'));
    }
  }

  #setEnough(availableMib: number): void {
    const { queue, log } = this.#parts;
    queue.holdStarts(false);
    this.#setRefusing(false, availableMib);
    log.info('the memory of the host is enough again', { availableMib });
  }

  #setRefusing(isRefusing: boolean, availableMib: number): void {
    const { queue, policy, log } = this.#parts;
    queue.refuseStarts(isRefusing ? `${availableMib} MiB are available` : null);
    if (isRefusing && !this.#isRefusing) {
      const reason = policy === 'refuse' ? '--memory-short refuse' : 'no sandbox can be paused';
      const fields = { availableMib, reason, remedy: REMEDY };
      log.warn('the memory of the host is short: starts and growth are refused', fields);
    }
    this.#isRefusing = isRefusing;
  }
}
