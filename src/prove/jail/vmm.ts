/** VMMs to look at: as sandboxes get them, in a jail, and the same program without one. */
import type { Log } from '../../base/log.ts';
import type { Config } from '../../config.ts';
import type { SystemCall } from './inject.ts';

export interface JailContext {
  readonly config: Config;
  readonly log: Log;
  /** For tests: a Firecracker below the version that sandboxes take. */
  readonly allowOlder?: boolean;
  /** How long the proof of load lasts, milliseconds. */
  readonly loadMs?: number;
  readonly signal?: AbortSignal;
  /** For tests: VMMs whose filter only logs. */
  readonly onlyLogs?: boolean;
}

export interface Vmm {
  readonly pid: number;
  /** Ends it; nothing is left. */
  end(): Promise<void>;
}

/** Starts VMMs of one kind; ends those that are left when it is disposed of. */
export interface Vmms extends AsyncDisposable {
  readonly traits: VmmTraits;
  /** As a sandbox' VMM. */
  jailed(): Promise<Vmm>;
  /** For controls: the same program without any of it. */
  free(): Promise<Vmm>;
}

/** In what the claims about one VMM differ from those about another. */
export interface VmmTraits {
  readonly name: 'QEMU' | 'QEMU with KVM' | 'Firecracker';
  /** Its own program, by the path that it has in the jail. */
  readonly program: string;
  /** What a call comes to that its filters refuse. */
  readonly refused: readonly string[];
  /** A call that it may make, and what that comes to in the jail. */
  readonly allowed: SystemCall & { readonly returns: string };
  /** Filters on each thread, at least. */
  readonly filters: number;
  /** Threads of a VMM that calls are made by: the first, and those whose filter is another one. */
  readonly threads: readonly string[];
  /** Namespaces that are its own. */
  readonly namespaces: readonly string[];
  /** Nothing but this is in its root. */
  readonly root: RegExp;
  /** Nothing but this is in its /dev. */
  readonly devices: RegExp;
  /** Where it may write. */
  readonly writable: string;
  /** Of its environment, as one line. */
  readonly environment: string;
  /** Also the bounding set of its capabilities is empty. */
  readonly dropsBounding: boolean;
  /** How it opens a file, and files of the host that it does not see. */
  readonly opens: { readonly number: number; readonly paths: readonly string[] };
}

export const MEMORY_MIB = 64;
export const SIGSYS = 31;
