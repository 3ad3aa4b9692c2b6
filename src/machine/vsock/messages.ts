/** Messages between the main thread and the worker of all devices. Both are this process. */

import type { ChannelLimits, ChannelStats } from '../../base/channel.ts';
import type { IgnoredCounts } from '../../base/ignore.ts';
import type { FileIdentity } from '../../sys/fd.ts';
import type { DeviceClosed } from './device.ts';

/** The worker owns a descriptor in a message. */
export type Command =
  | {
      readonly kind: 'attach';
      readonly device: number;
      readonly guestCid: number;
      readonly channelPath: string;
      readonly vhostFd: number;
      readonly channelFd: number;
      readonly limits: ChannelLimits;
      readonly guestPorts: readonly number[] | undefined;
      readonly memory: FileIdentity | undefined;
      readonly copiesMemory: boolean;
    }
  | { readonly kind: 'process-memory'; readonly device: number; readonly fd: number }
  | { readonly kind: 'set-limits'; readonly device: number; readonly limits: ChannelLimits }
  | { readonly kind: 'stats'; readonly device: number; readonly request: number }
  | { readonly kind: 'detach'; readonly device: number }
  | { readonly kind: 'stop' };

export type Report =
  | { readonly kind: 'stats'; readonly request: number; readonly stats: ChannelStats }
  /** Errors that the worker ignored since its last report of them. */
  | { readonly kind: 'ignored'; readonly counts: IgnoredCounts }
  /** The main thread closes these: they came from a VMM. */
  | { readonly kind: 'discard'; readonly fds: readonly number[] }
  /** The last message about a device. */
  | { readonly kind: 'closed'; readonly device: number; readonly closed: DeviceClosed; readonly stats: ChannelStats };

/** `workerData` of the worker thread. */
export interface WorkerSetup {
  /** Event counter that signals waiting commands in the port. The main thread owns it. */
  readonly wakeFd: number;
}
