/** VMMs for proofs: jailed, as sandboxes run them, and the same program without a jail. */
import type { SystemCall } from './inject.ts';

export interface Vmm {
  readonly pid: number;
  /** Ends the VMM and removes everything that belongs to it. */
  end(): Promise<void>;
}

/** Starts VMMs of one kind; its disposal ends the remaining ones. */
export interface Vmms extends AsyncDisposable {
  readonly traits: VmmTraits;
  /** Starts a VMM as a sandbox does. */
  jailed(): Promise<Vmm>;
  /** For controls: starts the same program without a jail. */
  free(): Promise<Vmm>;
}

/** The claims that differ between VMMs. */
export interface VmmTraits {
  readonly name: 'QEMU' | 'QEMU with KVM' | 'Firecracker';
  readonly program: string;
  /** Results of a call that its filters refuse. */
  readonly refused: readonly string[];
  /** A call that it may make, and the result in the jail. */
  readonly allowed: SystemCall & { readonly returns: string };
  /** Minimum number of filters on each thread. */
  readonly filters: number;
  /** Threads that make the calls: the first, and those with another filter. */
  readonly threads: readonly string[];
  /** Whether it keeps the user of this process, which is not root. */
  readonly keepsUser: boolean;
  /** Whether it is in a user namespace that maps only its own ids. */
  readonly mapsOnlyItself: boolean;
  readonly namespaces: readonly string[];
  /** Everything that its root may contain. */
  readonly root: RegExp;
  /** Everything that its /dev may contain. */
  readonly devices: RegExp;
  /** Its writable mounts. */
  readonly writable: string;
  readonly environment: string;
  /** Whether its capability bounding set is empty too. */
  readonly dropsBounding: boolean;
  /** The syscall that opens files, and host files that it must not see. */
  readonly opens: { readonly number: number; readonly paths: readonly string[] };
}

export const MEMORY_MIB = 64;
export const SIGSYS = 31;
