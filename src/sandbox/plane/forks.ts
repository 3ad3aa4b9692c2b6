/**
 * Forks start while their parent returns from its save, and count once it has returned.
 *
 *     parent   settle ─► unplug ─► stop, copy ─┬─► continue ─► plug ─► hello ─┬─► as before
 *     forks                                    └─► start ─────────────────────┴─► sandboxes
 *
 * If the parent fails to return, the forks end with it, and the request has that failure. A fork that fails is one
 * result of several.
 */
import type { ForkResult } from '../contract/control.ts';
import type { StartSource } from '../contract/parts.ts';
import type { ManagedSandbox } from './managed.ts';
import type { ForkLease } from './start-source.ts';

export interface ForkStart {
  readonly source: StartSource;
  /** Resolves when the parent runs as before or has failed; on failure `signal` is aborted. */
  readonly parentReturned: Promise<void>;
  readonly signal: AbortSignal;
}

/**
 * @param startOne does not throw; once `signal` is aborted, it leaves nothing behind
 * @throws the error of the parent's save, once all forks are over
 */
export async function startForks(
  parent: Pick<ManagedSandbox, 'acquireForkSource'>,
  count: number,
  startOne: (start: ForkStart) => Promise<ForkResult>,
  closed: AbortSignal,
): Promise<readonly ForkResult[]> {
  const failed = new AbortController();
  const signal = AbortSignal.any([closed, failed.signal]);
  const returned = Promise.withResolvers<void>();
  let lease: ForkLease | undefined;
  let forks: Promise<readonly ForkResult[]> = Promise.resolve([]);
  try {
    await parent.acquireForkSource((made) => {
      lease = made;
      const start = { source: made.source, parentReturned: returned.promise, signal };
      forks = Promise.all(Array.from({ length: count }, () => startOne(start)));
    });
  } catch (error) {
    failed.abort(error);
    throw error;
  } finally {
    returned.resolve();
    await forks;
    await lease?.release();
  }
  return await forks;
}
