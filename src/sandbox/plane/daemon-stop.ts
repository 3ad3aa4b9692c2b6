/** The stop of a daemon and the start after it: sandboxes are paused to disk, and those that ran are resumed. */
import type { Clock } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { orAborted, timeLimit } from '../../base/time-limit.ts';
import type { SandboxInfo } from '../contract/control.ts';
import { SandboxError } from '../contract/errors.ts';
import { PAUSE_GRACE_MS } from './lifetime.ts';
import type { ManagedSandbox } from './managed.ts';

/** Time that starts under way have to succeed when the daemon stops. */
export const STARTS_MS_MAX = 30_000;

export interface StopOptions {
  /** Aborts to end at once what is not paused yet. */
  readonly atOnce: AbortSignal;
  onProgress(progress: StopProgress): void;
}

export interface StopProgress {
  readonly id: string;
  /** Of `total`, with this one. */
  readonly done: number;
  readonly total: number;
  /** Why the sandbox ended; `null`: it is paused. */
  readonly failure: string | null;
}

export interface StopParts {
  readonly clock: Clock;
  readonly log: Log;
  /** Sandboxes at once. */
  readonly concurrency: number;
}

/** Pauses the sandboxes to disk, the longest idle ones first; those that can't be paused end. Never rejects. */
export async function pauseAll(
  sandboxes: readonly ManagedSandbox[],
  { clock, log, concurrency }: StopParts,
  { atOnce, onProgress }: StopOptions,
): Promise<void> {
  const idlest = sandboxes.toSorted((a, b) => b.lifetime.idleMs - a.lifetime.idleMs);
  let done = 0;
  await eachOf(idlest, concurrency, async (sandbox) => {
    const { id } = sandbox;
    const failure = await pauseOrEnd(sandbox, clock, atOnce);
    done += 1;
    onProgress({ id, done, total: idlest.length, failure });
    if (failure !== null) {
      log.error('a sandbox ended with the daemon: it could not be paused', { sandbox: id, reason: failure });
    }
  });
}

/** @returns why it ended; `null`: it is paused */
async function pauseOrEnd(sandbox: ManagedSandbox, clock: Clock, atOnce: AbortSignal): Promise<string | null> {
  using limit = timeLimit(clock, PAUSE_GRACE_MS, atOnce);
  let failure: string | undefined;
  try {
    await orAborted(sandbox.lifetime.pauseForStop(), limit.signal);
  } catch (error) {
    failure = atOnce.aborted ? 'a second signal ended it at once' : describeError(error);
  }
  try {
    // Does nothing for a sandbox that is paused, which it may be after an abort, too.
    await sandbox.leave(failure);
  } catch (error) {
    return describeError(error);
  }
  const { status, end } = sandbox.info();
  return status === 'paused' ? null : (end?.detail ?? status);
}

/** Resumes the sandboxes, which their owners see as events. Never rejects: one that can't be resumed stays paused. */
export async function resumeAll(
  stopped: readonly SandboxInfo[],
  find: (id: string) => Promise<ManagedSandbox>,
  { log, concurrency, isOpen }: Pick<StopParts, 'log' | 'concurrency'> & { isOpen(): boolean },
): Promise<void> {
  await eachOf(stopped, concurrency, async ({ id, foreignPause }) => {
    if (!isOpen()) return;
    const action = { type: 'action', action: 'resume' } as const;
    try {
      const sandbox = await find(id);
      try {
        if (foreignPause !== null) throw foreign(foreignPause);
        await sandbox.resume();
        sandbox.events.note({ ...action, ok: true, detail: 'the daemon is back' });
      } catch (error) {
        sandbox.events.note({ ...action, ok: false, detail: describeError(error) });
        throw error;
      }
    } catch (error) {
      const code = errorCode(error);
      if (code === 'gone' || code === 'not_found') return ignore(error, 'it was removed meanwhile');
      const reason = describeError(error);
      log.warn('a sandbox that ran when the daemon was stopped stays paused', { sandbox: id, reason });
    }
  });
}

function foreign(maker: string): SandboxError {
  return new SandboxError('snapshot_foreign', `only ${maker} can resume it with its memory`);
}

/** Works on at most `concurrency` items at once, in order. */
async function eachOf<T>(items: readonly T[], concurrency: number, work: (item: T) => Promise<void>): Promise<void> {
  const rest = items.values();
  const worker = async (): Promise<void> => {
    for (const item of rest) await work(item);
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
}
