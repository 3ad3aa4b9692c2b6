/** The role of a control plane that starts, changes and ends sandboxes. */
import type { ChannelLimits } from '../../base/channel.ts';
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import type { ModelPolicy } from './model-policy.ts';
import type { NetworkOptions } from './network-spec.ts';
import type { PackageOptions } from './packages.ts';
import type { MemoryAction, PauseTarget, SandboxInfo, SandboxStatus, TimeoutAction } from './sandbox.ts';
import type { RequestHeaderOptions, SecretOptions } from './secrets.ts';
import type { SandboxOptions } from './spec.ts';

export interface Sandboxes {
  /**
   * Resolves when the sandbox is ready.
   * @throws SandboxError `spec_invalid`, `not_found` (snapshot), `snapshot_damaged`, `start_failed`, `cancelled`
   * @throws BusyError the queue is full, or the request timed out in it
   */
  create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo>;
  /** Newest first, without ended sandboxes unless the filter names them. */
  list(filter?: SandboxFilter): Promise<readonly SandboxInfo[]>;
  /** An ended sandbox stays readable for a while, with its end. */
  get(id: string): Promise<SandboxInfo>;
  /** Changes the given fields: all of them, or none. */
  update(id: string, change: SandboxChange): Promise<SandboxInfo>;
  /** Ends the sandbox, whatever its state. Resolves when everything is released. */
  remove(id: string): Promise<SandboxInfo>;
  /** @throws SandboxError `not_ready`: the sandbox is neither running nor paused in memory */
  pause(id: string, to: PauseTarget): Promise<SandboxInfo>;
  /**
   * Keeps id and files, and processes unless it was paused to its disk only. Does nothing for a running sandbox; two
   * calls at once are one.
   */
  resume(id: string, options?: ResumeOptions): Promise<SandboxInfo>;
  /** Copies a running or paused sandbox. Each copy has its own identity and its own result. */
  fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]>;
}

export interface ResumeOptions {
  readonly signal?: AbortSignal | undefined;
  /** Boots from the disk, as after a pause `disk-only`: a saved memory is dropped. */
  readonly reboot?: boolean | undefined;
}

export interface CreateRequest extends SandboxOptions {
  /** Id or name of a snapshot to start from; CPUs, memory, disk, warm list and image are then the snapshot's. */
  readonly snapshot?: string | undefined;
  /**
   * Name of the template to start from, built again if it is out of date. CPUs, memory, disk, warm list and packages are
   * the template's: other values are refused.
   */
  readonly template?: string | undefined;
  /** Free pairs of the owner; keys ≤ 64, values ≤ 1024 characters, 32 pairs. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** What the interface that creates the sandbox keeps with it; no user sets them. Kept by forks and snapshots. */
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  /** The action at the timeout. Default `kill`. */
  readonly onTimeout?: TimeoutAction | undefined;
  /** Pause to disk after this time without an open operation, a model request or traffic. Default: never. */
  readonly idleTimeoutMs?: number | null | undefined;
  /** An operation resumes the paused sandbox, unless it was paused to its disk only. Default: true. */
  readonly autoResume?: boolean | undefined;
  /** The action close to OOM, at the memory maximum if there is one. Default `warn`. */
  readonly onMemoryPressure?: MemoryAction | undefined;
  /** Boot, even if a template or pool would be faster. */
  readonly boot?: boolean | undefined;
  /** Time limit in the start queue. Default 60 s. */
  readonly queueTimeoutMs?: number | undefined;
}

export interface SandboxChange {
  /** Restarts the timeout now; null: none. */
  readonly timeoutMs?: number | null | undefined;
  readonly onTimeout?: TimeoutAction | undefined;
  readonly idleTimeoutMs?: number | null | undefined;
  readonly autoResume?: boolean | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Replaces the values of these keys; other annotations stay. */
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly onMemoryPressure?: MemoryAction | undefined;
  /**
   * New memory size, MiB, up to the maximum. Shrinks only by what the programs leave free. Resumes as `guest`
   * does.
   */
  readonly memoryMib?: number | undefined;
  /** Replaces the budget, of all sandboxes that share it; what was used of it stays used. */
  readonly models?: Pick<ModelPolicy, 'budget'> | undefined;
  /** Replaces all limits; an absent direction is unlimited. Resumes as `guest` does. */
  readonly channelLimits?: ChannelLimits | undefined;
  /** Replaces all limits; an absent one is unlimited. Resumes as `guest` does. */
  readonly diskLimits?: DiskLimits | undefined;
  /**
   * Effective at once; closes connections that are now forbidden. Plugs or unplugs the network card as needed;
   * null: no card. Resumes as `guest` does.
   */
  readonly network?: NetworkOptions | null | undefined;
  /**
   * Replaces the package policy, for requests that arrive from now on; null: no packages. Resumes as `guest` does.
   */
  readonly packages?: PackageOptions | null | undefined;
  /**
   * Replaces all secrets; one of the same name keeps its placeholder. Resumes as `guest` does, but a sandbox
   * that is paused to disk stays there: it may need the values to be resumed.
   */
  readonly secrets?: readonly SecretOptions[] | undefined;
  /** Replaces all header fields that the gateway sets, as `secrets` does. */
  readonly requestHeaders?: readonly RequestHeaderOptions[] | undefined;
}

export interface SandboxFilter {
  readonly status?: readonly SandboxStatus[] | undefined;
  /** All pairs must match. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

export interface ForkOptions {
  /** 1 … 64. */
  readonly count: number;
  readonly timeoutMs?: number | null | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

export type ForkResult =
  | { readonly ok: true; readonly sandbox: SandboxInfo }
  | { readonly ok: false; readonly code: string; readonly message: string };
