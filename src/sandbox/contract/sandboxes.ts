/** The role of a control plane that starts, changes and ends sandboxes. */

import type { CreateRequest, ForkOptions, SandboxChange } from './schema/request.ts';
import type { PauseTarget, SandboxInfo, SandboxStatus } from './schema/sandbox.ts';

export type { CreateRequest, ForkOptions, SandboxChange } from './schema/request.ts';

export interface Sandboxes {
  /**
   * Resolves when the sandbox is ready.
   * @throws SandboxError `spec_invalid`, `name_taken`, `not_found` (snapshot), `snapshot_damaged`, `start_failed`, `disk_full`,
   *   `cancelled`
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

export interface SandboxFilter {
  readonly name?: string | undefined;
  readonly status?: readonly SandboxStatus[] | undefined;
  /** All pairs must match. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

export type ForkResult =
  | { readonly ok: true; readonly sandbox: SandboxInfo }
  | { readonly ok: false; readonly code: string; readonly message: string };
