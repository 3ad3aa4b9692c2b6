/**
 * What the supervisor needs of the mechanisms (types only). The composition root makes the parts; tests make fakes.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import type { PackagePolicy } from '../../base/request/package-policy.ts';
import type { Tracer } from '../../base/trace/trace.ts';
import type { NetworkLease } from '../../egress/net/lease/lease.ts';
import type { EgressPolicy } from '../../egress/net/policy/policy.ts';
import type { CertificateAuthority } from '../../egress/net/secret/authority.ts';
import type { PackageFetch } from '../../egress/packages/gateway.ts';
import type { GuestIdentity } from '../../machine/guest/identity.ts';
import type { GuestListener } from '../../machine/guest/link.ts';
import type { RamDifference, VmDisk, VmExit, VmmDriver, VmSnapshot } from '../../machine/vmm/driver.ts';
import type { ViolationMark } from './ending.ts';
import type { HostMemoryEvents } from './memory-events.ts';
import type { ModelAccount, ModelPolicy } from './model-policy.ts';
import type { NetworkLimits, NetworkSpec } from './network-spec.ts';
import type { SandboxSecret } from './secrets.ts';
import type { SandboxSpec } from './spec.ts';

/** The private directory of a sandbox. */
export interface Workspace {
  readonly dir: string;
  readonly channelPath: string;
  readonly overlayPath: string;
  /** Name for the file of an environment, if the sandbox has one. */
  readonly environmentPath: string;
  /** Further disks of the VM; absent: none. */
  readonly disks?: readonly VmDisk[];
  /** Records the VMM's pid, so that the next start can end the VMM if this process is killed. */
  recordVmm(pid: number): Promise<void>;
  remove(): Promise<void>;
}

/** Anonymous RAM of a guest. */
export interface GuestMemory {
  /** A memfd that can't shrink. */
  readonly fd: number;
  /** Opens the memory within this process. */
  readonly path: string;
  /** Of its pages that are there; 0 once it is closed. */
  usedBytes(): number;
  /** Idempotent. Other open descriptors keep the memory. */
  close(): void;
}

export interface PackagePort {
  /** For new requests. Null: nothing may be fetched. */
  setPolicy(policy: PackagePolicy | null): void;
  close(): Promise<void>;
}

export interface InferencePort {
  /** For new requests. */
  setModels(models: ModelPolicy): void;
  /** Number of requests under way. */
  inFlight(): number;
  /** For a save, which ends all connections: requests under way and new ones get an error that tells to retry. */
  setSuspended(isSuspended: boolean): void;
  close(): Promise<void>;
}

/** What a sandbox's network card has of the host's network. */
export interface CardLease
  extends Pick<NetworkLease, 'tapFd' | 'guest' | 'confirmHandover' | 'lend' | 'traffic' | 'gatewayUse' | 'release'> {
  /** Connects to a port at the guest's address. @throws SandboxError `port_unreachable` */
  connect(port: number, signal?: AbortSignal): Promise<Duplex>;
  /** @throws SandboxError `network_unavailable` */
  setPolicy(policy: EgressPolicy, limits: NetworkLimits): Promise<void>;
  /** For new connections. @throws SandboxError `secrets_missing`, `network_unavailable` */
  setSecrets(secrets: readonly SandboxSecret[]): Promise<void>;
  /** Undefined: the sandbox never had secrets. */
  readonly trust: GuestTrust | undefined;
}

/** System calls of one VMM that its filter refused. Made by the part that starts VMMs. */
export interface HostViolations {
  /**
   * Everything known once the VMM has ended; waits a moment for late reports of the kernel. Call it once.
   * @param exit absent: the VMM did not end by itself
   */
  settle(exit: VmExit | undefined): Promise<ViolationMark | null>;
}

/** The certificate authority that a guest must trust, so that the gateway can insert secrets. */
export interface GuestTrust {
  readonly authority: CertificateAuthority;
  /** The root certificate, PEM. */
  readonly certificate: string;
}

export type LeaseSecrets = Pick<SandboxSpec, 'secrets' | 'authority'>;

/** RAM that a VM maps copy-on-write. It stays until `close`, whatever becomes of its file. */
export interface MappedMemory {
  /** Of the file, while the VM starts. */
  readonly path: string;
  /** Until then the file is being filled. The VMM may map it, but no guest code runs. Absent: it is whole. */
  readonly ready?: Promise<void>;
  /** Into memory of the same size: before a save, which adds what the VM has changed. */
  copyInto(targetPath: string): Promise<void>;
  /** For saves of what the VM has changed alone. Absent: all RAM is saved. */
  readonly base?: RamBase;
  /** Idempotent. */
  close(): Promise<void>;
}

/** Whole RAM that a VM maps, while its `MappedMemory` is open. */
export interface RamBase {
  /** SHA-256 as the store computes it. */
  digest(): Promise<string>;
  /** Space of its data. */
  readonly dataBytes: number;
  /** For one more user, of the same sharers. */
  open(): Promise<MappedMemory>;
}

/** The disks that a VM boots with instead of an empty one. */
export interface DiskSource {
  /** Into a new file. */
  copyDisk(targetPath: string): Promise<void>;
  /** Gives the file of its environment another, new name. Absent: the built-in system. */
  linkEnvironment?(targetPath: string): Promise<void>;
}

/** What a clone starts from instead of booting. */
export interface CloneSource extends DiskSource {
  /** Its `difference` is for VMs that map the RAM. */
  readonly snapshot: VmSnapshot;
  /** Until then that difference is being written. The VMM may start, but loads nothing. Absent: it is whole. */
  readonly ready?: Promise<void>;
  /** All RAM, into memory of the same size. */
  copyMemory(targetPath: string): Promise<void>;
  /**
   * Opens the RAM for a VM that maps it instead. Absent: it is copied.
   * @param sharers whose VMs may share pages with each other
   */
  mapMemory?(sharers: string): Promise<MappedMemory>;
  /** What a VM that maps it may have to bring. Undefined: it is there, or takes no memory. */
  sharedNeed?(sharers: string): SharedNeed | undefined;
}

/** Memory that VMs share, of which the first one brings a copy. */
export interface SharedNeed {
  /** Equal for all that share it. */
  readonly key: string;
  /** What it lacks now, MiB; 0 from the first user on: then what it will grow by counts as pending. Does not throw. */
  missingMib(): number;
}

/** What a VM starts from: with the memory it continues, without it boots. */
export type StartSource = CloneSource | DiskSource;

/** Where a VM is saved to. Called while the VM is stopped. */
export interface SaveTarget {
  /** Null: only the disks are saved. */
  readonly memory: MemoryTarget | null;
  keepDisk(fromPath: string): Promise<void>;
  /** Called only for a VM with an environment. */
  keepEnvironment(fromPath: string): Promise<void>;
}

export interface MemoryTarget {
  /** Path of a new file. */
  readonly statePath: string;
  /** The file that `keepMemory` makes or fills. */
  readonly ramPath: string;
  keepMemory(fromPath: string): Promise<void>;
  /**
   * Instead, for a VM that maps `base`: keeps that, which may be there already.
   * @returns the new file that what the VM has changed is written to
   */
  keepBase?(base: RamBase, fromPath: string): Promise<RamDifference>;
}

export interface SandboxParts {
  readonly driver: VmmDriver;
  /** Whose VMs this one may share pages of RAM with. Null: it gets a copy of its own. Absent: this process has one owner. */
  readonly sharers?: string | null;
  readonly kernelPath: string;
  readonly rootImagePath: string;
  makeWorkspace(spec: SandboxSpec): Promise<Workspace>;
  makeOverlay(targetPath: string, sizeBytes: number): Promise<void>;
  makeMemory(bytes: number): GuestMemory;
  allocateCid(): { readonly cid: number; release(): void };
  listenForGuest(channelPath: string, identity: GuestIdentity): Promise<GuestListener>;
  /** @param account default: the sandbox's own */
  attachBridge(
    sandboxId: string,
    channelPath: string,
    models: ModelPolicy,
    account?: ModelAccount,
  ): Promise<InferencePort>;
  /** Absent: this host serves no packages. */
  attachPackages?(
    sandboxId: string,
    channelPath: string,
    policy: PackagePolicy | null,
    onFetch: (fetch: PackageFetch) => void,
  ): Promise<PackagePort>;
  /**
   * Absent: this host has no network for sandboxes.
   * @throws SandboxError `network_unavailable`, `secrets_missing`
   */
  leaseNetwork?(sandboxId: string, network: NetworkSpec, secrets: LeaseSecrets): Promise<CardLease>;
  /** Absent: the sandbox boots. */
  readonly template?: CloneSource;
  /** For a sandbox that boots: its disk. Absent: a new one. */
  readonly disk?: DiskSource;
  /** For a sandbox that boots with a new disk: as of `DiskSource`. */
  linkEnvironment?(targetPath: string): Promise<void>;
  /** Absent, or null: the host's view of the VMM is not watched. */
  hostMemory?(vmmPid: number, sandboxId: string): HostMemoryEvents | null;
  /** Absent, or null: refused system calls are not recorded. */
  hostViolations?(vmmPid: number): HostViolations | null;
  readonly clock: Clock;
  readonly log: Log;
  /** Absent: nothing is traced. */
  readonly tracer?: Tracer | undefined;
}

/** Durations in milliseconds, in the order in which the phases ran. */
export interface StartTimings {
  readonly origin: 'boot' | 'clone';
  /** Directory, disk, sockets; for a clone also the copy of its RAM. */
  readonly prepareMs: number;
  /** From the spawn of the VMM until guest code runs; for a clone with its state loaded. */
  readonly vmmMs: number;
  /** From guest code to PID 1 (guest clock); 0 for a clone, and if unknown. */
  readonly kernelMs: number;
  /** From PID 1 (for a clone: from guest code) until the agent is confirmed. */
  readonly agentMs: number;
  /** From the call of `start` until ready. */
  readonly totalMs: number;
}
