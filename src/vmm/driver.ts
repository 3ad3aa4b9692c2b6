/**
 * One interface for every VMM (R-CP-6). A driver turns a `VmSpec` into a running VM process and a channel.
 *
 *     VmSpec ──start──► VMM process ── guest
 *                          │ vsock
 *                     <channel>          host → guest: connect, `CONNECT <port>\n`, read `OK <n>\n`
 *                     <channel>_<port>   guest → host: the driver's vsock device connects here
 *
 * The channel contract is Firecracker's hybrid vsock (firecracker docs/vsock.md) for every driver. Who
 * listens at `<channel>_<port>` must listen before `start`; a port without a listener is refused.
 */
import type { Readable, Writable } from 'node:stream';
import type { ChannelLimits, ChannelStats } from '../base/channel.ts';
import type { DiskLimits } from '../base/disk-limits.ts';

export type { ChannelLimits, ChannelStats } from '../base/channel.ts';
export type { DiskLimits } from '../base/disk-limits.ts';

/** How guest instructions run. `fake`: there is no guest. */
type Accelerator = 'kvm' | 'tcg' | 'fake';

export interface VmmCapabilities {
  readonly pause: boolean;
  /** Snapshot and restore of a VM without its identity devices. */
  readonly snapshot: boolean;
  /** Snapshot and restore of a VM with all of its devices: `Vm.saveWhole`. */
  readonly wholeSnapshot?: boolean;
  /** The vsock device can be plugged into and unplugged from a running guest. */
  readonly hotplugVsock: boolean;
  /** The same of a network card on a TAP. */
  readonly hotplugNic: boolean;
  readonly interactiveConsole: boolean;
  /** Limits of the channel can be set and changed while the VM runs. */
  readonly channelLimits: boolean;
  /** A VM can have a balloon: `VmSpec.balloonMib`. */
  readonly balloon?: boolean;
}

export interface VmSpec {
  /** `[a-z0-9]+`, unique on this host. */
  readonly id: string;
  /** Existing private directory (0700) for sockets and logs; the caller removes it after the VM is gone. */
  readonly dir: string;
  readonly cpus: number;
  /** RAM, MiB; with a balloon the most that the guest can have. */
  readonly memoryMib: number;
  /**
   * Of it a balloon in the guest holds so much back, from the boot on; `Vm.balloon` changes that. A clone begins
   * with what its snapshot's held. Absent: there is none.
   */
  readonly balloonMib?: number;
  /** Uncompressed ELF kernel with a PVH entry. */
  readonly kernelPath: string;
  /** Read-only EROFS golden image; becomes /dev/vda, opened read-only at the device. */
  readonly rootImagePath: string;
  /** Raw ext4 image of this sandbox alone, for its writes; becomes /dev/vdb. */
  readonly overlayPath: string;
  /** Guest context id, 3 … 2³² − 2; unique per running VM. */
  readonly guestCid: number;
  /** Path of the channel's unix socket, ≤ 96 bytes so that `_<port>` still fits sun_path. */
  readonly channelPath: string;
  readonly channelLimits?: ChannelLimits;
  /** Hold when guest code runs. `{}`: none, also where the VM had some that a snapshot is of. */
  readonly diskLimits?: DiskLimits;
  /** Plugged before guest code runs; absent: the guest has none. */
  readonly nic?: NicSpec;
  /** `log`: console goes to a bounded tail; `interactive`: raw bidirectional serial console. */
  readonly console: 'log' | 'interactive';
  /**
   * RAM is this memfd of `memoryMib`, which stays the caller's, so that it can be filled before and copied
   * beside a snapshot; absent: memory that only the VMM has.
   */
  readonly memoryFd?: number;
  /** The VMM may start while that memory is still being filled; no guest code runs before this resolves. */
  readonly memoryReady?: Promise<void>;
  /** Goes on from here instead of booting; `memoryFd` holds a copy of the RAM that belongs to it. */
  readonly snapshot?: VmSnapshot;
  /** Extra kernel arguments, each `[A-Za-z0-9_.,:/=-]+`; anything else is refused. */
  readonly bootArgs?: readonly string[];
}

/** A network card; like the channel it carries identity, so no snapshot has one. */
export interface NicSpec {
  /** Of a TAP with virtio-net headers. It stays the caller's: the VMM has a copy once the card is plugged. */
  readonly tapFd: number;
  /**
   * For a VMM that opens its TAP by name: of one that lasts, which nobody holds open and its user may open.
   * `tapFd` is −1 then.
   */
  readonly tapName?: string;
  /** The same of the TAP of `tapFd`, which is lent: see `NicLender`. Drivers that take `tapFd` leave it. */
  readonly lend?: NicLender;
  /** `aa:fc:00:00:00:01`, unique on this host. */
  readonly mac: string;
}

/**
 * Makes a TAP one that the VMM may open, in the network namespace that it is in, while `open` runs. Before and
 * afterwards it is in that of its owner, where all its packets go.
 * @param vmm its process; `user`: as whom it runs, null: as root
 */
export type NicLender = (
  vmm: {
    readonly pid: number;
    readonly user: { readonly uid: number; readonly gid: number } | null;
  },
  open: (tapName: string) => Promise<void>,
) => Promise<void>;

/** The devices of a VM that stands still; its RAM and its overlay disk are files of the caller's. */
export interface VmSnapshot {
  /** Of a whole snapshot: its RAM, which clones map copy-on-write. No one may write to it as long as one runs. */
  readonly memoryPath?: string;
  readonly statePath: string;
  readonly stateSha256: string;
  /** `machineOf` the VM it was taken of. */
  readonly machine: string;
}

/** New files, made for their owner alone. */
export interface WholeSnapshotFiles {
  readonly statePath: string;
  readonly memoryPath: string;
}

/** How much the balloon holds makes no difference to the machine, only whether there is one. */
export type MachineSize = Pick<VmSpec, 'cpus' | 'memoryMib' | 'balloonMib'>;

export interface VmExit {
  readonly cause: 'guest-shutdown' | 'killed' | 'vmm-crashed';
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** For people: why the guest ended, or the last lines of the VMM's stderr. */
  readonly detail: string;
  /** The last lines of the VMM's stderr; absent: it has none. */
  readonly log?: string;
  /** The VMM says that its filter refused this system call, by number, and ended it. */
  readonly refusedSyscall?: number;
}

/** Milliseconds on the driver's clock since `start` was called. */
export interface VmTimings {
  readonly spawnedMs: number;
  readonly runningMs: number;
}

/** The end of what is written, as it is written. */
export interface LogTail {
  /** Bytes ever written. */
  readonly total: number;
  /** What is kept, as UTF-8; what is no text becomes U+FFFD. */
  text(): string;
  /** A copy of the bytes after the first `position` that are kept. */
  after(position: number): Buffer;
  /** Called after each write. Returns how to stop. */
  onWrite(listener: () => void): () => void;
}

/** The host could not read or write a disk of the VM. */
export interface DiskTrouble {
  /**
   * `full`: no space is left on the host; the VM stands still, and `resume` tries again.
   * `failed`: the guest was told (EIO), and goes on.
   */
  readonly kind: 'full' | 'failed';
  /** Of the disk's file. */
  readonly path: string;
  /** Of its file system, for an ordinary user; null: not known. */
  readonly freeBytes: number | null;
}

export interface Vm {
  readonly id: string;
  readonly pid: number | null;
  readonly channelPath: string;
  readonly timings: VmTimings;
  /** Resolves when the VM is gone, whatever the cause. Never rejects. */
  readonly exited: Promise<VmExit>;
  /** Cheap and synchronous: its process is there and no signal has stopped it. */
  isAlive(): boolean;
  /** The last 64 KiB that the guest wrote to its serial console. */
  consoleTail(): string;
  /** The serial console, 64 KiB; what the VMM itself has to say, the last lines. Also after its end. */
  readonly logs: { readonly console: LogTail; readonly vmm: LogTail };
  /** Absent: only the guest is told. @returns stops listening */
  onDiskTrouble?(listener: (trouble: DiskTrouble) => void): () => void;
  /** Why it stands still now, though nobody has paused it; null: it does not. */
  fullDisk?(): DiskTrouble | null;
  /** Present only with `console: 'interactive'`. */
  readonly terminal: { readonly input: Writable; readonly output: Readable } | null;
  /** Present with the capability `hotplugVsock`. */
  readonly vsockHotplug?: VsockHotplug;
  /** Present with the capability `hotplugNic`. */
  readonly nicHotplug?: NicHotplug;
  /** Present if the VM was started with one. */
  readonly balloon?: Balloon;
  /**
   * Stops the VM and writes its devices to a new file; RAM and disk stand still until `resume`. The vsock
   * device and the network card must be unplugged and RAM be the caller's. Present with the capability `snapshot`.
   * @throws VmmError `vm_unsupported` when it may not be taken now
   */
  saveState?(statePath: string): Promise<VmSnapshot>;
  /**
   * Stops the VM and writes all of it, its devices with their identity; it stands still until `resume`. A clone
   * gets a channel and a TAP of its own; the guest sees another generation id, and its connections are lost.
   * Present with the capability `wholeSnapshot`.
   * @param kind `diff`: only pages written since the snapshot before, into its RAM, which is there
   * @throws VmmError
   */
  saveWhole?(files: WholeSnapshotFiles, kind?: 'full' | 'diff'): Promise<VmSnapshot>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  setChannelLimits(limits: ChannelLimits): Promise<void>;
  /** Replaces all of them, also while the VM stands still. No part of a snapshot. @throws VmmError */
  setDiskLimits(limits: DiskLimits): Promise<void>;
  channelStats(): Promise<ChannelStats>;
  /** Ends the VM and releases all that `start` made. Idempotent; resolves when the process is gone. */
  kill(): Promise<void>;
}

/** Devices that carry identity are plugged into a clone, and unplugged before a snapshot. */
export interface VsockHotplug {
  /**
   * A fresh device behind the same `channelPath`; its guest sees it within milliseconds.
   * @throws VmmError
   */
  plugVsock(guestCid: number): Promise<void>;
  /**
   * Resolves when the guest has given the device up; its connections are gone. The VM must be running.
   * @throws VmmError
   */
  unplugVsock(): Promise<void>;
}

/**
 *     absent ──plug──► plugged ──withdraw──► withdrawn ──return──► plugged      for a save that goes on
 *        ▲────────────────┴──────unplug──────────┘
 */
export interface NicHotplug {
  /** Also while the VM stands still: its guest sees the card when it runs. @throws VmmError */
  plugNic(nic: NicSpec): Promise<void>;
  /**
   * Resolves when the guest has given the card up and the VMM its copy of the TAP. The VM must be running.
   * Fine when there is no card.
   * @throws VmmError
   */
  unplugNic(): Promise<void>;
  /** Takes the card from the guest; the VMM keeps the TAP. Fine when there is no card. @throws VmmError */
  withdrawNic(): Promise<void>;
  /** The reverse, with the same TAP and address. Fine when it was not withdrawn. @throws VmmError */
  returnNic(): Promise<void>;
}

/**
 * Takes pages of its guest and gives them back to the host (virtio 1.2, 5.5). It works only as far as the guest helps: what
 * the guest has at most is the VM's RAM, whatever is asked for.
 */
export interface Balloon {
  /** Asks for it and does not wait: the guest may take its time, or not do it. @throws VmmError */
  setMemory(memoryMib: number): Promise<void>;
  /** What the guest has now, by its own word, MiB, not rounded. @throws VmmError */
  memoryMib(): Promise<number>;
}

export interface VmmDriver {
  readonly name: 'qemu' | 'firecracker' | 'fake';
  /** What a person reads, e.g. `QEMU 7.2.22 (software emulation)`. */
  readonly description: string;
  readonly accelerator: Accelerator;
  readonly capabilities: VmmCapabilities;
  /**
   * All that a snapshot depends on beside kernel and disks: VMM, version, processor, devices. Two equal
   * texts: the snapshot can be loaded. Present with the capability `snapshot`.
   */
  machineOf?(size: MachineSize): string;
  /**
   * Starts a VM; resolves once guest code runs. On failure nothing is left behind.
   * @throws VmmError
   */
  start(spec: VmSpec, signal?: AbortSignal): Promise<Vm>;
}
