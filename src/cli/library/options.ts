/** Options and results of the library's methods. */

import type { TransferOptions } from '../../artifacts/transfer/transfer.ts';
import type { RunOptions as GuestRunOptions, ProcessExit } from '../../machine/guest/link.ts';
import type { CreateRequest, SandboxFilter } from '../../sandbox/contract/control.ts';
import type { HostOptions } from './host.ts';

export interface CreateOptions extends Omit<CreateRequest, 'console'>, HostOptions {}

export interface ListOptions extends SandboxFilter, HostOptions {}

export interface RunOptions
  extends Pick<GuestRunOptions, 'env' | 'cwd' | 'user' | 'timeoutMs' | 'pty' | 'outputBytesMax' | 'detached' | 'tag'> {
  /** Text or bytes for the program's standard input. Default: none. */
  readonly stdin?: string | Uint8Array;
  /** `buffer`: `stdout` and `stderr` of the result are bytes. Default `utf8`: text, in which other bytes become `\ufffd`. */
  readonly encoding?: 'utf8' | 'buffer';
  /** Called with each chunk of output. */
  readonly onStdout?: (chunk: Buffer) => void;
  readonly onStderr?: (chunk: Buffer) => void;
  /** Cancels the wait and kills the program. */
  readonly signal?: AbortSignal;
}

/** Options whose result has bytes. */
export interface BufferOptions extends RunOptions {
  readonly encoding: 'buffer';
}

/** Options whose result has text. */
export interface TextOptions extends RunOptions {
  readonly encoding?: 'utf8';
}

export interface RunResult<Output extends string | Buffer = string> extends ProcessExit {
  /** At most 16 MiB of each stream are kept; more sets `truncated`. `onStdout` and `onStderr` get all of it. */
  readonly stdout: Output;
  readonly stderr: Output;
}

export interface UploadOptions extends TransferOptions {
  /** True: leaves out what `.gitignore` and `.dockerignore` list, and `.git`, `.venv`, `__pycache__`, `node_modules`. */
  readonly gitignore?: boolean;
}
