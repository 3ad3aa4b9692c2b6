/**
 * Where the library's sandboxes are: in a daemon, or in this process.
 *
 *     Sandbox ──► Host ──► control plane of a daemon              connections stay for the process's life
 *                     └──► control plane of this process (local)  open while it has a sandbox
 */
import type { Log } from '../../base/log.ts';
import type { Progress } from '../../base/progress.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/contract/control.ts';

/**
 * `auto`: the daemon of this home if it runs, else this process · `never`: this process · `require`: the
 * daemon of this home, or of NEUROVISOR_URL · a URL: the daemon there, with NEUROVISOR_API_KEY.
 */
export type DaemonChoice = 'auto' | 'never' | 'require' | `http://${string}` | `https://${string}`;

export interface HostOptions {
  /** Default `auto`. */
  readonly daemon?: DaemonChoice | undefined;
  /** Cancels the set-up. */
  readonly signal?: AbortSignal | undefined;
  /** Called while this process sets the machine up. A daemon has done that already. */
  readonly onProgress?: Progress | undefined;
  readonly log?: Log | undefined;
  /** Records what the sandbox asks models, or answers it: a `Cassette`. Default: NEUROVISOR_RECORD or NEUROVISOR_REPLAY. */
  readonly cassette?: SandboxCassette | undefined;
}

export interface SandboxCassette {
  /** Where its sandboxes are. */
  host(options: Omit<HostOptions, 'cassette'>): Promise<Host>;
}

export interface Host {
  /** Calls `body` with the control plane, which stays open at least until `body` has resolved. */
  use<T>(body: (control: ControlPlane) => Promise<T>): Promise<T>;
  /** True: a guest is valid for the sandbox's whole life, however often it is paused. */
  readonly guestsLast: boolean;
  onChange(listener: (info: SandboxInfo) => void): () => void;
  /** Calls the listener when changes may have been missed, since a daemon ended or came back. Only with `onChange`. */
  onInterruption(listener: () => void): () => void;
}
