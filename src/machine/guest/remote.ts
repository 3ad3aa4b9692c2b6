/**
 * A guest whose control connection another process has: a daemon's client has only the operations.
 *
 *     connectGuest ── dial() ──► the daemon's tunnel ──► <channel>, CONNECT 5000 ──► agent
 */
import type { Clock } from '../../base/clock.ts';
import { ConnectedGuest } from './connected-guest.ts';
import type { Dial } from './dial.ts';
import type { Guest, GuestInfo } from './guest.ts';

export interface ConnectOptions {
  readonly dial: Dial;
  /** Provided by the process with the control connection. */
  readonly info: GuestInfo;
  readonly clock: Clock;
}

/** The guest's `events` never fire, and `closed` resolves only after `close`. */
export function connectGuest(options: ConnectOptions): Guest {
  return new ConnectedGuest({ ...options, drop: () => undefined });
}
