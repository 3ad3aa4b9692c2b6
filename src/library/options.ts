/** Options and results of the library's methods. */
import type { RunOptions as GuestRunOptions, ProcessExit } from '../guest/link.ts';
import type { CreateRequest, SandboxFilter } from '../sandbox/control.ts';
import type { HostOptions } from './host.ts';

export interface CreateOptions extends Omit<CreateRequest, 'console'>, HostOptions {}

export interface ListOptions extends SandboxFilter, HostOptions {}

export interface RunOptions
  extends Pick<
    GuestRunOptions,
    'env' | 'cwd' | 'user' | 'timeoutMs' | 'pty' | 'outputBytesMax' | 'detached' | 'tag'
  > {
  /** Text or bytes for the program's standard input. Default: none. */
  readonly stdin?: string | Uint8Array;
  /** Called with each chunk of output. */
  readonly onStdout?: (chunk: Buffer) => void;
  readonly onStderr?: (chunk: Buffer) => void;
  /** Cancels the wait and kills the program. */
  readonly signal?: AbortSignal;
}

export interface RunResult extends ProcessExit {
  /** At most 16 MiB of each stream are kept; more sets `truncated`. `onStdout` and `onStderr` get all of it. */
  readonly stdout: string;
  readonly stderr: string;
}
