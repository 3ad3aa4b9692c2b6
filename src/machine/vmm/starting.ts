/** Cancels the start of a VMM, and explains its failure by the VMM's last output. */

import type { Clock } from '../../base/clock.ts';
import { orAborted } from '../../base/time-limit.ts';
import type { VmExit } from './driver.ts';
import { VmmError } from './errors.ts';

/** Time for the process to end after its control connection has ended. */
const LAST_WORDS_MS_MAX = 2_000;

interface StartedProcess {
  readonly exited: Promise<VmExit>;
  startFailure(exit: VmExit): VmmError;
}

/**
 * The error of a failed start: the VMM's last output if it has ended.
 * @param process undefined if not started yet
 */
export async function explainFailure(
  error: unknown,
  process: StartedProcess | undefined,
  clock: Clock,
): Promise<unknown> {
  if (!(error instanceof VmmError)) {
    return new VmmError('vmm_start_failed', 'the VM could not be started', { cause: error });
  }
  if (error.code !== 'vm_gone' || process === undefined) return error;
  const late = Promise.withResolvers<undefined>();
  const cancel = clock.after(LAST_WORDS_MS_MAX, () => late.resolve(undefined));
  const exit = await Promise.race([process.exited, late.promise]);
  cancel();
  return exit === undefined ? error : process.startFailure(exit);
}

function cancelled(signal: AbortSignal): VmmError {
  return new VmmError('vm_cancelled', 'the start of the VM was canceled', { cause: signal.reason });
}

/** @throws VmmError `vm_cancelled` */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled(signal);
}

/**
 * Settles as `work` does, unless the start is canceled first, or was before the call; `work` itself continues, and its
 * failure then counts as handled.
 * @throws VmmError `vm_cancelled`
 */
export async function unlessCancelled<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return await orAborted(work, signal, cancelled);
}
