/** Limits and counters of a sandbox's channel, independent of the device. */
import type { BucketLimit } from './token-bucket.ts';

/** Each direction has its own bucket; `connections` counts new connections either way. */
export interface ChannelLimits {
  readonly guestToHostBytes?: BucketLimit;
  readonly hostToGuestBytes?: BucketLimit;
  readonly connections?: BucketLimit;
}

export interface ChannelStats {
  readonly bytesGuestToHost: number;
  readonly bytesHostToGuest: number;
  readonly connectionsOpened: number;
  readonly connectionsOpen: number;
  readonly connectionsRefused: number;
  /** Time during which a direction waited for tokens, milliseconds. */
  readonly throttledMsGuestToHost: number;
  readonly throttledMsHostToGuest: number;
  /** Packets from the guest that broke the protocol and were answered by a reset or dropped. */
  readonly protocolErrors: number;
}
