/** A VMM's view of the owner of the vsock devices (implemented by `vsock`, joined by the composition root). */
import type { FileIdentity } from '../../sys/fd.ts';
import type { ChannelLimits, ChannelStats } from './driver.ts';

interface VsockAttachSpec {
  /** The VM's id, for logs. */
  readonly id: string;
  readonly guestCid: number;
  /** Where the owner listens for the VMM's vhost-user connection. */
  readonly vhostSocketPath: string;
  /** Where the owner listens for the host's programs: Firecracker's hybrid socket. */
  readonly channelPath: string;
  readonly limits?: ChannelLimits;
  /** The file that is the guest's memory: the device maps no other. Omitted for memory that the VMM creates itself. */
  readonly memory?: FileIdentity;
  /** Copies guest memory from and to the process of `setProcessMemory`. Default: maps it. */
  readonly copiesMemory?: boolean;
}

export interface VsockAttachment {
  /** With `copiesMemory`, before the VMM connects. Takes ownership of `fd` from `openProcessMemory`. */
  setProcessMemory(fd: number): void;
  setLimits(limits: ChannelLimits): Promise<void>;
  stats(): Promise<ChannelStats>;
  /** Ends the device and removes its sockets. Idempotent. */
  detach(): Promise<void>;
}

/** Resolves when both sockets accept connections. */
export type AttachVsock = (spec: VsockAttachSpec) => Promise<VsockAttachment>;
