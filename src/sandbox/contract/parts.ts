/**
 * The interfaces of the mechanisms that the supervisor needs (types only). The composition root provides the parts;
 * tests provide fakes.
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
import type { RamDifference, VmDisk, VmExit, VmmDriver, VmSnapshot, VmVolume } from '../../machine/vmm/driver.ts';
import type { KeptVm } from '../../machine/vmm/kept.ts';
import type { ViolationMark } from './ending.ts';
import type { HostMemoryEvents } from './memory-events.ts';
import type { ModelAccount, ModelPolicy } from './model-policy.ts';
import type { NetworkLimits, NetworkSpec } from './network-spec.ts';
import type { SandboxSecret } from './secrets.ts';
import type { SandboxSpec } from './spec.ts';

export interface Workspace {
  readonly dir: string;
  readonly channelPath: string;
  readonly overlayPath: string;
  /** Path for the environment's disk file, if the sandbox has an environment. */
  readonly environmentPath: string;
  /** Extra disks of the VM. Default: none. */
  readonly disks?: readonly VmDisk[];
  /** Records the VMM's pid, so that the next process can kill the VMM if this one dies. */
  recordVmm(pid: number): Promise<void>;
  /** Set: the VM outlives this process (`VmSpec.keep`). */
  readonly keep?: ((kept: KeptVm) => void) | undefined;
  remove(): Promise<void>;
}

export interface GuestMemory {
  /** A memfd that can't shrink. */
  readonly fd: number;
  /** Path that opens the memory within this process. */
  readonly path: string;
  /** Bytes of allocated pages; 0 after `close`. */
  usedBytes(): number;
  /** Idempotent. Other open descriptors keep the memory alive. */
  close(): void;
}

export interface PackagePort {
  /** Applies to new requests. `null` forbids all packages. */
  setPolicy(policy: PackagePolicy | null): void;
  close(): Promise<void>;
}

export interface InferencePort {
  /** Applies to new requests. */
  setModels(models: ModelPolicy): void;
  inFlight(): number;
  /**
   * Suspends requests for a save, which closes all connections: requests in flight and new ones get an error that asks
   * to retry.
   */
  setSuspended(isSuspended: boolean): void;
  close(): Promise<void>;
}

/** A sandbox's share of the host's network. */
export interface CardLease
  extends Pick<NetworkLease, 'tapFd' | 'guest' | 'confirmHandover' | 'lend' | 'traffic' | 'gatewayUse' | 'release'> {
  /** Connects to a port of the guest. @throws SandboxError `port_unreachable` */
  connect(port: number, signal?: AbortSignal): Promise<Duplex>;
  /** @throws SandboxError `network_unavailable` */
  setPolicy(policy: EgressPolicy, limits: NetworkLimits): Promise<void>;
  /** Applies to new connections. @throws SandboxError `secrets_missing`, `network_unavailable` */
  setSecrets(secrets: readonly SandboxSecret[]): Promise<void>;
  /** Undefined if the sandbox never had secrets. */
  readonly trust: GuestTrust | undefined;
}

/** System calls of one VMM that its filter refused, provided by the part that starts VMMs. */
export interface HostViolations {
  /**
   * The final result after the VMM ended; waits a moment for late kernel reports. Call it once.
   * @param exit undefined if the VMM did not end by itself
   */
  settle(exit: VmExit | undefined): Promise<ViolationMark | null>;
}

/** The certificate authority that a guest must trust for the gateway to insert secrets. */
export interface GuestTrust {
  readonly authority: CertificateAuthority;
  /** Root certificate in PEM. */
  readonly certificate: string;
}

export type LeaseSecrets = Pick<SandboxSpec, 'secrets' | 'authority'>;

/** RAM that a VM maps copy-on-write. Stays valid until `close`, even if its file is removed. */
export interface MappedMemory {
  /** Path of the file, valid while the VM starts. */
  readonly path: string;
  /**
   * Resolves when the file is filled. Until then the VMM may map it, but no guest code runs. Omitted if the file is
   * complete.
   */
  readonly ready?: Promise<void>;
  /** Copies the RAM into memory of the same size, before a save adds the VM's changes. */
  copyInto(targetPath: string): Promise<void>;
  /** Lets a save write only the VM's changes. If omitted, all RAM is saved. */
  readonly base?: RamBase;
  close(): Promise<void>;
}

/** Complete RAM that a VM maps while its `MappedMemory` is open. */
export interface RamBase {
  /** SHA-256, as the store computes it. */
  digest(): Promise<string>;
  /** Space that the data takes, without holes. */
  readonly dataBytes: number;
  /** Opens it for another user in the same sharing group. */
  open(): Promise<MappedMemory>;
}

/** Disks that a VM boots from instead of an empty one. */
export interface DiskSource {
  /** Kernel and system image of its VM. Default: this host's. */
  readonly madeFrom?: MadeFrom;
  copyDisk(targetPath: string): Promise<void>;
  /** Links the environment's file to a new path. Omitted for the built-in system. */
  linkEnvironment?(targetPath: string): Promise<void>;
}

/** State that a clone starts from instead of booting. */
export interface CloneSource extends DiskSource {
  /** Its `difference` is for VMs that map the RAM. */
  readonly snapshot: VmSnapshot;
  /**
   * Resolves when the difference is written. Until then the VMM may start but loads nothing. Omitted if it is complete.
   */
  readonly ready?: Promise<void>;
  copyMemory(targetPath: string): Promise<void>;
  /**
   * Opens the RAM for a VM that maps it. If omitted, the RAM is copied.
   * @param sharers group whose VMs may share pages
   */
  mapMemory?(sharers: string): Promise<MappedMemory>;
  /** Memory that a VM mapping it may have to add. Undefined if it is already there or takes none. */
  sharedNeed?(sharers: string): SharedNeed | undefined;
}

/** Memory that VMs share; the first of them brings the copy. */
export interface SharedNeed {
  /** Equal for all VMs that share it. */
  readonly key: string;
  /** MiB that are still missing; 0 once it has a user: its future growth then counts as pending. Does not throw. */
  missingMib(): number;
}

/** Source of a VM: with memory it continues, without it boots. */
export type StartSource = CloneSource | DiskSource;

/** Destination of a save. Called while the VM is stopped. */
export interface SaveTarget {
  /** `null` if only the disks are saved. */
  readonly memory: MemoryTarget | null;
  keepDisk(fromPath: string): Promise<void>;
  /** Called only for a VM with an environment. */
  keepEnvironment(fromPath: string): Promise<void>;
}

export interface MemoryTarget {
  readonly statePath: string;
  /** File that `keepMemory` creates or fills. */
  readonly ramPath: string;
  /** @param changesFollow the VM then writes its changes to `ramPath` */
  keepMemory(fromPath: string, changesFollow?: boolean): Promise<void>;
  /**
   * For a VM that maps `base`: keeps the base, unless the store has it already, instead of all RAM.
   * @returns the new file for the VM's changes
   */
  keepBase?(base: RamBase, fromPath: string): Promise<RamDifference>;
}

/** What a VM was booted from, as the store names it. */
export interface MadeFrom {
  readonly kernelDigest: string;
  readonly rootImageDigest: string;
}

/** The kernels and system images that this host can start VMs with. */
export interface PlatformTable {
  has(digests: Partial<MadeFrom>): boolean;
  /** Checks the files before a VM uses them. @throws SandboxError `snapshot_damaged` */
  verify(madeFrom: MadeFrom): Promise<void>;
}

/** Volumes of one sandbox, locked until `close`. */
export interface OpenVolumes {
  readonly disks: readonly VmVolume[];
  close(): void;
}

export interface SandboxParts {
  /** Set for a VM that another version of this host may have booted. Default: this host's. */
  readonly madeFrom?: MadeFrom;
  readonly driver: VmmDriver;
  /** Group that this VM may share RAM pages with; `null` for a private copy. Omitted if this process has one owner. */
  readonly sharers?: string | null;
  readonly kernelPath: string;
  readonly rootImagePath: string;
  makeWorkspace(spec: SandboxSpec): Promise<Workspace>;
  makeOverlay(targetPath: string, sizeBytes: number): Promise<void>;
  makeMemory(bytes: number): GuestMemory;
  allocateCid(): { readonly cid: number; release(): void };
  listenForGuest(channelPath: string, identity: GuestIdentity): Promise<GuestListener>;
  /** @param account default: the sandbox's own account */
  attachBridge(
    sandboxId: string,
    channelPath: string,
    models: ModelPolicy,
    account?: ModelAccount,
  ): Promise<InferencePort>;
  /** Omitted if this host serves no packages. */
  attachPackages?(
    sandboxId: string,
    channelPath: string,
    policy: PackagePolicy | null,
    onFetch: (fetch: PackageFetch) => void,
  ): Promise<PackagePort>;
  /**
   * Omitted if this host has no network for sandboxes.
   * @throws SandboxError `network_unavailable`, `secrets_missing`
   */
  leaseNetwork?(sandboxId: string, network: NetworkSpec, secrets: LeaseSecrets): Promise<CardLease>;
  /** If omitted, the sandbox boots. */
  readonly template?: CloneSource;
  /** Disk of a sandbox that boots. Default: a new one. */
  readonly disk?: DiskSource;
  /** See `DiskSource`; for a sandbox that boots with a new disk. */
  linkEnvironment?(targetPath: string): Promise<void>;
  /** Omitted if this host has no volumes. @throws SandboxError `not_found`, `in_use`, `volumes_unavailable` */
  openVolumes?(sandboxId: string, volumes: SandboxSpec['volumes']): Promise<OpenVolumes>;
  /** Omitted or `null` if the host's view of the VMM is not watched. */
  hostMemory?(vmmPid: number, sandboxId: string): HostMemoryEvents | null;
  /** Omitted or `null` if refused system calls are not recorded. */
  hostViolations?(vmmPid: number): HostViolations | null;
  readonly clock: Clock;
  readonly log: Log;
  /** If omitted, nothing is traced. */
  readonly tracer?: Tracer | undefined;
}

/** Durations in milliseconds, in the order in which the phases ran. */
export interface StartTimings {
  readonly origin: 'boot' | 'clone';
  /** Directory, disk and sockets; for a clone also the copy of its RAM. */
  readonly prepareMs: number;
  /** From the VMM's spawn until guest code runs; for a clone this includes loading the state. */
  readonly vmmMs: number;
  /** From the first guest code to PID 1 (guest clock); 0 for a clone or if unknown. */
  readonly kernelMs: number;
  /** From PID 1 (for a clone: from the first guest code) until the agent has answered. */
  readonly agentMs: number;
  /** From the call of `start` until the sandbox is ready. */
  readonly totalMs: number;
}
