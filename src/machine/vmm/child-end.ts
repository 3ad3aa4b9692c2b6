/** Waits for the end of a VMM's process, and of its last output. */
import type { ChildProcess } from 'node:child_process';
import type { Clock } from '../../base/clock.ts';

/** Timeout for output that is still in pipes and sockets when the process has ended. */
const DRAIN_MS_MAX = 1_000;

/** Resolves when the child has ended or could not be spawned. @param onError gets each error of the child */
export function childEnd(child: ChildProcess, onError: (error: Error) => void): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  child.on('exit', () => resolve());
  child.on('error', (error) => {
    onError(error);
    // The same event reports a signal that could not be sent; then `exit` follows.
    if (child.pid === undefined) resolve();
  });
  return promise;
}

/** Waits for the ends of streams, for a bounded time: a process of the VMM's may hold them open. */
export async function drain(ends: readonly Promise<unknown>[], clock: Clock): Promise<void> {
  const late = Promise.withResolvers<void>();
  const cancel = clock.after(DRAIN_MS_MAX, late.resolve);
  await Promise.race([Promise.all(ends), late.promise]);
  cancel();
}
