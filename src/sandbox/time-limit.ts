/** A limit on how long something may take, as a signal. */
import type { Clock } from '../base/clock.ts';

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
