/** The clock of a guest, which stands still with its processors. */
import { describeError } from '../base/errors.ts';
import type { Guest } from '../guest/link.ts';
import type { SandboxParts } from './parts.ts';
import { timeLimit } from './time-limit.ts';

/** A guest that lives answers within milliseconds; who resumes it waits that long for one that hangs. */
const SET_CLOCK_MS_MAX = 5000;

/** One that does not answer runs all the same. */
export async function setClock(
  sandbox: string,
  guest: Guest | undefined,
  { clock, log }: Pick<SandboxParts, 'clock' | 'log'>,
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
