/** How long something may take, and waiting, by the clock that is given. */
import type { Clock } from './clock.ts';

export interface TimeLimit extends Disposable {
  /** Aborts when the time is over, or with the signal that was given. */
  readonly signal: AbortSignal;
}

/** The clock's timer goes with `using`. */
export function timeLimit(clock: Clock, limitMs: number, signal?: AbortSignal): TimeLimit {
  const over = new AbortController();
  const cancel = clock.after(limitMs, () =>
    over.abort(new Error(`it took longer than ${limitMs} ms`)),
  );
  return {
    signal: signal === undefined ? over.signal : AbortSignal.any([signal, over.signal]),
    [Symbol.dispose]: cancel,
  };
}

/** What `work` gives, or the signal's reason; whatever `work` does then, nobody waits for it. */
export async function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(signal.reason);
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([work, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Of the clock's time; none if it is over. @throws the signal's reason */
export async function wait(clock: Clock, waitMs: number, signal: AbortSignal): Promise<void> {
  if (waitMs <= 0) return;
  const over = Promise.withResolvers<void>();
  const cancel = clock.after(waitMs, over.resolve);
  try {
    await orAborted(over.promise, signal);
  } finally {
    cancel();
  }
}
