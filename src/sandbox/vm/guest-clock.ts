/** The clock of a guest that stood still with its processors. */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { timeLimit } from '../../base/time-limit.ts';
import type { Guest } from '../../guest/link.ts';

/** A guest that lives answers within milliseconds; who resumes it waits that long for one that hangs. */
const SET_CLOCK_MS_MAX = 5000;

/** One that does not answer runs all the same. Never rejects. */
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
