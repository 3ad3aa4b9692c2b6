import { orAborted, timeLimit } from '../../../base/time-limit.ts';
import type { GuestStats } from '../../../machine/guest/guest.ts';
import { E2bError } from '../errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';

/** Statistics reported by a running guest. @throws errors of the guest, or after 5 s without an answer */
export async function guestStats({ control, clock }: E2bParts, id: string): Promise<GuestStats> {
  using limit = timeLimit(clock, E2B_LIMITS.guestAnswerMsMax);
  const asking = control.guest(id).then((guest) => guest.stats());
  return await orAborted(asking, limit.signal);
}

/** @throws E2bError 409 with the code that clients know */
export async function requireHealthy(parts: E2bParts, id: string): Promise<void> {
  try {
    await guestStats(parts, id);
  } catch (cause) {
    throw new E2bError(409, `sandbox ${id} is not paused: its guest does not answer`, {
      cause,
      errorCode: 'sandbox_snapshot_guest_agent_unresponsive',
    });
  }
}
