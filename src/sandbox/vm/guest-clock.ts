/** Sets a guest's clock after a pause. */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { timeLimit } from '../../base/time-limit.ts';
import type { Guest } from '../../machine/guest/link.ts';

/** A resume waits this long for a guest that hangs; a healthy one answers within milliseconds. */
const SET_CLOCK_MS_MAX = 5000;

/** A guest that does not answer keeps running. Never rejects. */
export async function setGuestClock(
  guest: Guest | undefined,
  sandbox: string,
  { clock, log }: { readonly clock: Clock; readonly log: Log },
  signal: AbortSignal,
): Promise<void> {
  using limit = timeLimit(clock, SET_CLOCK_MS_MAX, signal);
  try {
    await guest?.update({ wallMs: clock.wall() }, limit.signal);
  } catch (error) {
    const reason = describeError(error);
    log.warn("a guest's clock could not be set", { sandbox, reason });
  }
}
