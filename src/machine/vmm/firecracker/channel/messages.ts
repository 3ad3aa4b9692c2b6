/** Messages between the main thread and the thread of all channels. Both are this process. */
import type { ChannelLimits, ChannelStats } from '../../../../base/channel.ts';
import type { IgnoredCounts } from '../../../../base/ignore.ts';

/** The thread owns the descriptor in a command. Each command with a `request` is answered once. */
export type Command =
  | { readonly kind: 'open'; readonly channel: number; readonly innerPath: string; readonly limits: ChannelLimits }
  | {
      readonly kind: 'listen';
      readonly channel: number;
      readonly fd: number;
      /** Target of the guest's connections; `null`: the connections come from host programs. */
      readonly hostPath: string | null;
    }
  | { readonly kind: 'set-limits'; readonly channel: number; readonly limits: ChannelLimits; readonly request: number }
  | { readonly kind: 'stats' | 'disconnect' | 'close'; readonly channel: number; readonly request: number }
  | { readonly kind: 'stop' };

export type Report =
  /** The command was carried out; counters after it. */
  | { readonly kind: 'answer'; readonly request: number; readonly stats: ChannelStats }
  /** A fault while serving this channel, which is closed now. */
  | { readonly kind: 'broken'; readonly channel: number; readonly detail: string }
  /** The main thread closes these. */
  | { readonly kind: 'discard'; readonly fds: readonly number[] }
  /** Errors that the thread ignored since its last report of them. */
  | { readonly kind: 'ignored'; readonly counts: IgnoredCounts };

/** `workerData` of the thread. */
export interface RelaySetup {
  /** Event counter that signals waiting commands in the port. The main thread owns it. */
  readonly wakeFd: number;
  /** Memory of the thread's `FdLedger`. */
  readonly ledger: SharedArrayBuffer;
}

export const NO_STATS: ChannelStats = {
  bytesGuestToHost: 0,
  bytesHostToGuest: 0,
  connectionsOpened: 0,
  connectionsOpen: 0,
  connectionsRefused: 0,
  throttledMsGuestToHost: 0,
  throttledMsHostToGuest: 0,
  protocolErrors: 0,
};
