/**
 * A guest whose control connection another process holds: a client of a daemon has the operations alone.
 *
 *     connectGuest ── dial() ──► the daemon's tunnel ──► <channel>, CONNECT 5000 ──► agent
 */
import type { Clock } from '../base/clock.ts';
import { ConnectedGuest } from './connected-guest.ts';
import type { Dial } from './dial.ts';
import type { Guest, GuestInfo } from './guest.ts';

export interface ConnectOptions {
  readonly dial: Dial;
  /** As the holder of the control connection knows it. */
  readonly info: GuestInfo;
  readonly clock: Clock;
}

/** Its `events` never fire, and its `closed` resolves only by `close` or `suspend`. */
export function connectGuest(options: ConnectOptions): Guest {
  return new ConnectedGuest({ ...options, drop: () => undefined });
}
