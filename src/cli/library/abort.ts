import { ignore } from '../../base/ignore.ts';
import { orAborted } from '../../base/time-limit.ts';

/**
 * Does the work unless the signal is aborted. After an abort it rejects with the signal's reason, as `fetch` does: an
 * AbortError, a TimeoutError, or what the caller gave.
 */
export async function withAbort<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  signal?.throwIfAborted();
  try {
    return await work();
  } catch (error) {
    if (signal?.aborted !== true) throw error;
    ignore(error, 'it follows from the abort');
    throw signal.reason;
  }
}

/** Waits for shared work, which continues for others after an abort. Rejects with the signal's reason. */
export async function waitUnlessAborted<T>(signal: AbortSignal | undefined, work: Promise<T>): Promise<T> {
  return signal === undefined ? await work : await orAborted(work, signal);
}
