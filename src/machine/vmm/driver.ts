/**
 * One interface for every VMM (R-CP-6). A driver turns a `VmSpec` into a running VM process and a channel.
 *
 *     VmSpec ──start──► VMM process ── guest
 *                          │ vsock
 *                     <channel>          host → guest: connect, `CONNECT <port>\n`, read `OK <n>\n`
 *                     <channel>_<port>   guest → host: the driver's vsock device connects here
 *
 * Every driver follows Firecracker's hybrid vsock (firecracker docs/vsock.md). Listeners at `<channel>_<port>` must
 * exist before `start`; a port without a listener is refused.
 */
import type { Readable, Writable } from 'node:stream';
import type { ChannelLimits, ChannelStats } from '../../base/channel.ts';
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import type { FileIdentity } from '../../sys/fd.ts';
import type { KeptVm } from './kept.ts';

export type { ChannelLimits, ChannelStats } from '../../base/channel.ts';
export type { DiskLimits } from '../../base/request/disk-limits.ts';

/** How guest instructions run; `fake` if there is no guest. */
type Accelerator = 'kvm' | 'tcg' | 'fake';

export interface VmmCapabilities {
  /** A network card on a TAP can be plugged into and unplugged from a running guest. */
  readonly hotplugNic: boolean;
  /** Limits of the channel can be set and changed while the VM runs. */
  readonly channelLimits: boolean;
  /**
   * A clone of `saveState` maps `VmSnapshot.memoryPath` copy-on-write. If omitted, `memoryFd` must hold a copy of the
   * RAM.
   */
  readonly mapsMemory?: boolean;
  /** … up to this size, MiB. Default: any. */
  readonly mapsMemoryMibMax?: number;
  /** … also with a balloon. Default: without one, since the VMM would return pages to the file. */
  readonly mapsMemoryWithBalloon?: boolean;
  /** A VM can have `VmSpec.volumes`. */
  readonly volumes?: boolean;
}

export interface VmSpec {
  /** `[a-z0-9]+`, unique on this host. */
  readonly id: string;
  /** Existing private directory (0700) for sockets and logs; the caller removes it after the VM is gone. */
  readonly dir: string;
  readonly cpus: number;
  /** RAM, MiB; with a balloon, the guest's maximum. */
  readonly memoryMib: number;
  /**
   * Memory that a balloon in the guest holds back from boot on; `Vm.balloon` changes it. A clone starts with the
   * balloon of its snapshot. Omitted: no balloon.
   */
  readonly balloonMib?: number;
  /** Uncompressed ELF kernel with a PVH entry. */
  readonly kernelPath: string;
  /** Read-only EROFS golden image; becomes /dev/vda, opened read-only at the device. */
  readonly rootImagePath: string;
  /** Raw ext4 image of this sandbox alone, for its writes; becomes /dev/vdb. */
  readonly overlayPath: string;
  /** Extra raw disks, in order /dev/vdc, /dev/vdd, …; at most `DISKS_MAX`. A clone has as many as its snapshot. */
  readonly disks?: readonly VmDisk[];
  /** Disks that outlive the VM, in the order of their serial numbers `volume0`, `volume1`, …; at most `VOLUMES_MAX`. */
  readonly volumes?: readonly VmVolume[];
  /** Guest context id, 3 … 2³² − 2; unique per running VM. */
  readonly guestCid: number;
  /** Path of the channel's unix socket, ≤ 96 bytes so that `_<port>` still fits sun_path. */
  readonly channelPath: string;
  readonly channelLimits?: ChannelLimits;
  /** In effect when guest code runs. `{}`: none, even if the VM of the snapshot had some. */
  readonly diskLimits?: DiskLimits;
  /** Plugged before guest code runs. Omitted: no network card. */
  readonly nic?: NicSpec;
  /** `log`: console goes to a bounded tail; `interactive`: raw bidirectional serial console. */
  readonly console: 'log' | 'interactive';
  /**
   * A memfd of `memoryMib` as RAM. The caller owns it, so it can fill it before the start and copy it for a snapshot.
   * If omitted, only the VMM has the memory.
   */
  readonly memoryFd?: number;
  /**
   * The VMM may start while that memory, or the difference of `snapshot`, is still being written; it reads neither and
   * runs no guest code before this resolves.
   */
  readonly memoryReady?: Promise<void>;
  /**
   * Starts from this snapshot instead of booting; `memoryFd` holds a copy of its RAM. With a `memoryPath` that copy is
   * needed only at the first `saveState`, which may write only the changes since.
   */
  readonly snapshot?: VmSnapshot;
  /**
   * Set: the VM outlives this process, if the driver can do that. Called once before guest code runs, with what the next
   * process needs to take it over; a failure fails the start.
   */
  readonly keep?: (kept: KeptVm) => void;
  /** Extra kernel arguments, each `[A-Za-z0-9_.,:/=-]+`; anything else is refused. */
  readonly bootArgs?: readonly string[];
}

/** A disk beside root and overlay. Its content is the caller's; no snapshot contains it. */
export interface VmDisk {
  /** Absolute. A disk for `write` is a file in `VmSpec.dir`, with one link. */
  readonly path: string;
  /** `read`: read-only at the device. */
  readonly access: 'read' | 'write';
}

/**
 * A raw disk that the VMM gets as an open file. A VM that boots, or is cloned from a snapshot without it, gets it before
 * guest code runs; a VM that continues has it, as part of its snapshot's `machine`.
 */
export interface VmVolume {
  /** The caller's descriptor, open for exactly this access; the VMM has a copy. */
  readonly fd: number;
  readonly access: VmDisk['access'];
}

/** A network card. Like the channel it carries identity, so no snapshot contains one. */
export interface NicSpec {
  /** A TAP with virtio-net headers, owned by the caller; the VMM has a copy once the card is plugged. */
  readonly tapFd: number;
  /**
   * For a VMM that opens its TAP by name: a persistent TAP that no process has open and that the VMM's user may open.
   * `tapFd` is −1 then.
   */
  readonly tapName?: string;
  /** Lends the TAP of `tapFd` to a VMM that opens it by name; ignored by drivers that use `tapFd`. */
  readonly lend?: NicLender;
  /** `aa:fc:00:00:00:01`, unique on this host. */
  readonly mac: string;
}

/**
 * Moves a TAP into the VMM's network namespace and lets its user open it while `open` runs. Before and afterwards the
 * TAP is in its owner's namespace, where all its packets go.
 * @param vmm the VMM's process; `user` is `null` if it runs as root
 */
export type NicLender = (
  vmm: { readonly pid: number; readonly user: { readonly uid: number; readonly gid: number } | null },
  open: (tapName: string) => Promise<void>,
) => Promise<void>;

/** The devices of a paused VM; its RAM and overlay disk are files of the caller. */
export interface VmSnapshot {
  /**
   * RAM that clones map copy-on-write, from a whole snapshot or with the capability `mapsMemory`. Must not be written
   * to while a clone runs. A jailed VMM shares a file that others may read but not write; of any other file it gets a
   * copy.
   */
  readonly memoryPath?: string;
  /** The VM's changes to that RAM. A driver whose VMs have `ownBytes` loads it. Omitted: no changes. */
  readonly difference?: RamDifference;
  readonly statePath: string;
  readonly stateSha256: string;
  /** `machineOf` the snapshotted VM. */
  readonly machine: string;
}

/** A file of the format in `ram-difference.ts`. */
export interface RamDifference {
  readonly path: string;
  /** SHA-256 of the RAM that it is based on, as the store computes it; lower-case hex. */
  readonly baseDigest: string;
}

/** Destination of a save for a VM's changes to mapped RAM: a file with that RAM, or a file of their own. */
export type RamChanges =
  | { readonly ramPath: string }
  | { readonly difference: RamDifference; readonly room?: ChangesRoom };

/** Memory that a save reads pages into, with all its pages allocated. */
export interface ChangesRoom {
  readonly buffers: readonly ArrayBuffer[];
}

/** Data that a save has read but not yet written, so that the VM need not stay paused for it. */
export interface UnwrittenChanges {
  /** Call it once. @throws an errno error of the file */
  write(): Promise<unknown>;
  close(): Promise<void>;
}

export interface SavedState extends VmSnapshot {
  /**
   * Until it is written, the snapshot is incomplete. The caller closes it in any case. Omitted if the snapshot is
   * complete.
   */
  readonly rest?: UnwrittenChanges;
}

/** New files, readable only by their owner. */
export interface WholeSnapshotFiles {
  readonly statePath: string;
  readonly memoryPath: string;
}

/** Inputs of a snapshot's machine: whether there is a balloon, and the number and access of disks and volumes. */
export type MachineSize = Pick<VmSpec, 'cpus' | 'memoryMib' | 'balloonMib' | 'disks'> & {
  readonly volumes?: readonly Pick<VmVolume, 'access'>[];
};

export interface VmExit {
  readonly cause: 'guest-shutdown' | 'killed' | 'vmm-crashed';
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** Display text: why the guest ended, or the last lines of the VMM's stderr. */
  readonly detail: string;
  /** The last lines of the VMM's stderr, if any. */
  readonly log?: string;
  /** Number of the syscall that the VMM's filter refused, as the VMM reported before it ended. */
  readonly refusedSyscall?: number;
}

/** Milliseconds on the driver's clock since `start` was called. */
export interface VmTimings {
  readonly spawnedMs: number;
  /** When all its limits were set, when it first answered, and when a snapshot was loaded. Omitted if not measured. */
  readonly confinedMs?: number;
  readonly greetedMs?: number;
  readonly loadedMs?: number;
  readonly runningMs: number;
}

/** The tail of a stream that is still being written. */
export interface LogTail {
  readonly total: number;
  /** The kept bytes as UTF-8; invalid bytes become U+FFFD. */
  text(): string;
  /** A copy of the kept bytes after the first `position`. */
  after(position: number): Buffer;
  /** Calls `listener` after each write. Returns the function that removes it. */
  onWrite(listener: () => void): () => void;
}

export interface DiskTrouble {
  /**
   * `full`: the host's file system is full; the VM is paused, and `resume` retries. `failed`: the guest got EIO and
   * continues.
   */
  readonly kind: 'full' | 'failed';
  readonly path: string;
  /** Free bytes of its file system for an ordinary user; `null` if unknown. */
  readonly freeBytes: number | null;
}

export interface Vm {
  readonly id: string;
  readonly pid: number | null;
  readonly channelPath: string;
  readonly timings: VmTimings;
  /** Resolves when the VM is gone, for any reason. Never rejects. */
  readonly exited: Promise<VmExit>;
  /** Whether its process exists and no signal has stopped it. Cheap and synchronous. */
  isAlive(): boolean;
  /** The last 64 KiB that the guest wrote to its serial console. */
  consoleTail(): string;
  /** The last 64 KiB of the serial console and the VMM's last log lines; also after its end. */
  readonly logs: { readonly console: LogTail; readonly vmm: LogTail };
  /** Omitted if only the guest learns of disk errors. @returns a function that stops listening */
  onDiskTrouble?(listener: (trouble: DiskTrouble) => void): () => void;
  /** The full disk that paused the VM, or `null`. */
  fullDisk?(): DiskTrouble | null;
  /** Present only with `console: 'interactive'`. */
  readonly terminal: { readonly input: Writable; readonly output: Readable } | null;
  readonly vsockHotplug?: VsockHotplug;
  /** Present with the capability `hotplugNic`. */
  readonly nicHotplug?: NicHotplug;
  /** Present if the VM was started with a balloon. */
  readonly balloon?: Balloon;
  /**
   * Stops the VM, if it runs, and writes its devices to a file that is new or, for QEMU, empty; RAM and disk do not
   * change until `resume`. The vsock device and the network card must be unplugged, and the caller must own the RAM.
   * @param changes with `savesChanges`: destination of the VM's changes since its start. Default: `VmSpec.memoryFd`, which has
   *   the RAM that it maps
   * @throws VmmError `vm_unsupported` if a device is plugged or the RAM is the VMM's own
   */
  saveState?(statePath: string, changes?: RamChanges): Promise<SavedState>;
  /** The VM maps its RAM, and each `saveState` can write all changes of it, into any file. */
  readonly savesChanges?: boolean;
  /** Bytes of mapped RAM that the VM has changed; also while it runs. Present with `savesChanges`. @throws VmmError */
  ownBytes?(): Promise<number>;
  /**
   * Allocates the memory that `saveState` needs for a difference of this size, while the VM runs. Present with
   * `savesChanges`.
   * @param bytes more may change until then
   */
  makeRoom?(bytes: number): Promise<ChangesRoom>;
  /**
   * Stops the VM until `resume` and writes all of it, including identity devices. A clone gets its own channel and TAP;
   * its guest sees a new generation id and loses its connections.
   * Only with Firecracker.
   * @param kind `diff`: writes only the pages changed since the last snapshot, into that snapshot's RAM file
   * @throws VmmError
   */
  saveWhole?(files: WholeSnapshotFiles, kind?: 'full' | 'diff'): Promise<VmSnapshot>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  setChannelLimits(limits: ChannelLimits): Promise<void>;
  /** Replaces all disk limits, also while the VM is paused. Not part of a snapshot. @throws VmmError */
  setDiskLimits(limits: DiskLimits): Promise<void>;
  channelStats(): Promise<ChannelStats>;
  /** Ends the VM and releases everything that `start` created. Idempotent; resolves when the process is gone. */
  kill(): Promise<void>;
}

/** Devices that carry identity are plugged into a clone, and unplugged before a snapshot. */
export interface VsockHotplug {
  /**
   * Plugs a new device behind the same `channelPath`; the guest sees it within milliseconds.
   * @throws VmmError
   */
  plugVsock(guestCid: number): Promise<void>;
  /**
   * Resolves when the guest has released the device; its connections are gone. The VM must be running.
   * @throws VmmError
   */
  unplugVsock(): Promise<void>;
}

/**
 *     absent ──plug──► plugged ──withdraw──► withdrawn ──return──► plugged      for a save and resume
 *        ▲────────────────┴──────unplug──────────┘
 */
export interface NicHotplug {
  /** Also works while the VM is paused: the guest sees the card when it runs. @throws VmmError */
  plugNic(nic: NicSpec): Promise<void>;
  /**
   * Resolves when the guest has released the card and the VMM its copy of the TAP. The VM must be running. A no-op
   * without a card.
   * @throws VmmError
   */
  unplugNic(): Promise<void>;
  /** Takes the card from the guest; the VMM keeps the TAP. A no-op without a card. @throws VmmError */
  withdrawNic(): Promise<void>;
  /** Undoes `withdrawNic`, with the same TAP and address. A no-op if it was not withdrawn. @throws VmmError */
  returnNic(): Promise<void>;
}

/**
 * Returns pages of the guest to the host (virtio 1.2, 5.5). It needs the guest's cooperation; the upper bound of the
 * guest's memory is always the VM's RAM.
 */
export interface Balloon {
  /** Requests this size without waiting: the guest may be slow or refuse. @throws VmmError */
  setMemory(memoryMib: number): Promise<void>;
  /** The guest's memory as the guest reports it, MiB, not rounded. @throws VmmError */
  memoryMib(): Promise<number>;
}

export interface VmmDriver {
  readonly name: 'qemu' | 'firecracker' | 'fake';
  /** Display text, for example `QEMU 7.2.22 (software emulation)`. */
  readonly description: string;
  readonly accelerator: Accelerator;
  /** Display text: one clause on which clones share RAM, or why none does. Omitted if this driver has no clones. */
  readonly memorySharing?: string;
  readonly capabilities: VmmCapabilities;
  /**
   * Everything that a snapshot depends on beside kernel and disks: VMM, version, processor, devices. A snapshot can be
   * loaded if the texts are equal. Present with the capability `snapshot`.
   */
  machineOf?(size: MachineSize): string;
  /**
   * Starts a VM; resolves once guest code runs. On failure nothing is left behind.
   * @throws VmmError
   */
  start(spec: VmSpec, signal?: AbortSignal): Promise<Vm>;
  /**
   * Takes over a VM of a process that was killed: `spec.keep` has got `kept`. Its vsock device is a new one; it runs.
   * Omitted: no VM of this driver outlives its process.
   * @param spec `memoryFd` is the VM's RAM, or, with a `snapshot.memoryPath`, what its saves fill
   * @throws VmmError; then the VM was ended
   */
  adopt?(spec: VmSpec, kept: KeptVm, signal?: AbortSignal): Promise<Vm>;
  /** Takes the RAM of such a VM, which the caller closes. Present with `adopt`. @throws VmmError `vm_gone` */
  memoryOf?(kept: KeptVm): number;
  /** Likewise its own descriptor of a file. @throws VmmError `vm_gone`: it has not opened the file */
  fileOf?(kept: KeptVm, file: FileIdentity): number;
  /** Releases what the driver's VMs share; call it after their end. Omitted if they share nothing. */
  close?(): Promise<void>;
}
