/** Timeouts and waits on an injected clock, and promises that a signal can cut short. */
import type { Clock } from './clock.ts';

export interface TimeLimit extends Disposable {
  /** Aborts when the time is over, or with the given signal. */
  readonly signal: AbortSignal;
}

/** `using` cancels the timer. */
export function timeLimit(clock: Clock, limitMs: number, signal?: AbortSignal): TimeLimit {
  const timeout = new AbortController();
  const cancel = clock.after(limitMs, () => timeout.abort(new Error(`it took longer than ${limitMs} ms`)));
  return {
    signal: signal === undefined ? timeout.signal : AbortSignal.any([signal, timeout.signal]),
    [Symbol.dispose]: cancel,
  };
}

/**
 * Settles as `work` does, or rejects as soon as the signal aborts; `work` itself continues unobserved.
 * @param toError default: the signal's reason
 */
export async function orAborted<T>(
  work: Promise<T>,
  signal: AbortSignal,
  toError: (signal: AbortSignal) => unknown = ({ reason }) => reason,
): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(toError(signal));
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  return await Promise.race([work, aborted.promise]).finally(() => signal.removeEventListener('abort', onAbort));
}

/** Returns at once if `waitMs` is not positive. @throws the signal's reason */
export async function wait(clock: Clock, waitMs: number, signal: AbortSignal): Promise<void> {
  if (waitMs <= 0) return;
  const elapsed = Promise.withResolvers<void>();
  const cancel = clock.after(waitMs, elapsed.resolve);
  await orAborted(elapsed.promise, signal).finally(cancel);
}
