/**
 * The TypeScript library.
 *
 *     import { Sandbox } from 'neurovisor';
 *
 *     await using sandbox = await Sandbox.create({ memoryMib: 512 });
 *     const result = await sandbox.runCode('print(1 + 1)');
 *     console.log(result.stdout);                            // "2\n"
 *
 * The first `create` on a machine sets it up (minutes; pass `onProgress` to watch). Sandboxes of one
 * process share the vsock worker, the bridge and the model server; they end with the last sandbox.
 */
import type { Duplex, Readable } from 'node:stream';
import { type Log, silentLog } from './base/log.ts';
import { type Progress, silentProgress } from './base/progress.ts';
import { readConfig } from './config.ts';
import type {
  GuestFiles,
  RunOptions as GuestRunOptions,
  GuestStats,
  Process,
  ProcessExit,
} from './guest/link.ts';
import { Runtime } from './runtime/runtime.ts';
import type { SandboxState } from './sandbox/lifecycle.ts';
import type { SandboxOptions } from './sandbox/spec.ts';
import type { SandboxEnd, StartTimings, Supervisor } from './sandbox/supervisor.ts';
import type { ChannelLimits, ChannelStats } from './vmm/driver.ts';

export { CodedError } from './base/errors.ts';
export type { ProgressEvent } from './base/progress.ts';
export type { FileEntry, GuestFiles, GuestStats, Process, ProcessExit } from './guest/link.ts';
export type { SandboxState } from './sandbox/lifecycle.ts';
export type { ModelPolicy, SandboxOptions } from './sandbox/spec.ts';
export type { SandboxEnd, StartTimings } from './sandbox/supervisor.ts';
export type { ChannelLimits, ChannelStats } from './vmm/driver.ts';

export interface CreateOptions extends SandboxOptions {
  /** Cancels the set-up and the boot. */
  readonly signal?: AbortSignal;
  /** Called while the machine is being set up. */
  readonly onProgress?: Progress;
  readonly log?: Log;
}

export interface RunOptions
  extends Pick<
    GuestRunOptions,
    'env' | 'cwd' | 'user' | 'timeoutMs' | 'pty' | 'outputBytesMax' | 'detached' | 'tag'
  > {
  /** Text or bytes for the program's standard input. Default: none. */
  readonly stdin?: string | Uint8Array;
  /** Called with each piece of output as it comes. */
  readonly onStdout?: (chunk: Buffer) => void;
  readonly onStderr?: (chunk: Buffer) => void;
  /** Cancels the wait and kills the program. */
  readonly signal?: AbortSignal;
}

export interface RunResult extends ProcessExit {
  /** At most 16 MiB of each are kept; `onStdout` and `onStderr` see all of it. */
  readonly stdout: string;
  readonly stderr: string;
}

const KEPT_BYTES_MAX = 16 * 1024 * 1024;

/** One microVM. Ends with `kill`, with its `timeoutMs`, or with `await using`. */
export class Sandbox {
  /** `[a-z0-9]{20}`. */
  readonly id: string;
  /** Files of the guest; relative paths start in the user's home. */
  readonly files: GuestFiles;
  /** Phases of the start, milliseconds. */
  readonly timings: StartTimings | undefined;
  /** `kvm` or `tcg` (software emulation, many times slower). */
  readonly accelerator: string;
  /** Resolves when the sandbox is gone, and says why. Never rejects. */
  readonly ended: Promise<SandboxEnd>;
  readonly #supervisor: Supervisor;

  private constructor(supervisor: Supervisor, accelerator: string) {
    this.#supervisor = supervisor;
    this.id = supervisor.spec.id;
    this.files = supervisor.guest().files;
    this.timings = supervisor.timings;
    this.accelerator = accelerator;
    this.ended = supervisor.ended;
  }

  /**
   * Starts a sandbox from a template of its size where there is one, else boots it; it is ready when the
   * promise resolves.
   * @throws CodedError with `code` and, where there is one, `remedy`: `spec_invalid`, `start_failed`,
   *   `cancelled`, `upstream_unreachable`, or what set-up could not get
   */
  static async create(options: CreateOptions = {}): Promise<Sandbox> {
    const { signal, onProgress, log, ...sandboxOptions } = options;
    const lease = await leaseRuntime({ signal, onProgress, log });
    try {
      const supervisor = await lease.runtime.cloneSandbox(sandboxOptions, signal);
      void supervisor.ended.then(lease.release);
      return new Sandbox(supervisor, lease.runtime.driver.accelerator);
    } catch (error) {
      await lease.release();
      throw error;
    }
  }

  get state(): SandboxState {
    return this.#supervisor.state;
  }

  /** Runs Python code in a fork of the warmed interpreter; each call is a process of its own. */
  runCode(code: string, options: RunOptions & { readonly args?: readonly string[] } = {}) {
    const { args = [] } = options;
    return this.#collect(
      (base) => this.#supervisor.guest().python({ ...base, script: { code }, args }),
      options,
    );
  }

  /** Runs a program by its arguments; no shell is involved. */
  exec(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return this.#collect((base) => this.#supervisor.guest().exec({ ...base, argv }), options);
  }

  /** Starts a program and hands out its streams; for long-running and interactive ones. */
  start(argv: readonly string[], options: RunOptions = {}): Promise<Process> {
    const { signal, ...rest } = withoutCallbacks(options);
    return this.#supervisor.guest().exec({ ...rest, argv }, signal);
  }

  /** Raw bytes to a TCP port on the guest's loopback. */
  connect(port: number): Promise<Duplex> {
    return this.#supervisor.guest().connect(port);
  }

  stats(): Promise<GuestStats> {
    return this.#supervisor.guest().stats();
  }

  /** Traffic of the vsock channel. */
  channelStats(): Promise<ChannelStats> {
    return this.#vm().channelStats();
  }

  /** Changes the channel's token buckets while the sandbox runs. */
  setChannelLimits(limits: ChannelLimits): Promise<void> {
    return this.#vm().setChannelLimits(limits);
  }

  /** Stops the CPUs; memory is kept. */
  pause(): Promise<void> {
    return this.#supervisor.pause();
  }

  resume(): Promise<void> {
    return this.#supervisor.resume();
  }

  /** Ends the sandbox and removes every trace. Idempotent. */
  async kill(): Promise<SandboxEnd> {
    const end = await this.#supervisor.stop();
    await idle();
    return end;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  #vm() {
    const { vm } = this.#supervisor;
    this.#supervisor.guest(); // Throws when the sandbox is not ready.
    if (vm === undefined) throw new Error('a ready sandbox has a VM');
    return vm;
  }

  async #collect(
    begin: (options: GuestRunOptions) => Promise<Process>,
    options: RunOptions,
  ): Promise<RunResult> {
    options.signal?.throwIfAborted();
    const { signal, ...rest } = withoutCallbacks(options);
    const process = await begin({ ...rest, stdin: options.stdin !== undefined });
    const onAbort = (): void => process.kill('SIGKILL');
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      if (options.stdin !== undefined) process.stdin.end(options.stdin);
      const [stdout, stderr, exit] = await Promise.all([
        keep(process.stdout, options.onStdout),
        keep(process.stderr, options.onStderr),
        process.exit,
      ]);
      signal?.throwIfAborted();
      return { ...exit, stdout, stderr };
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }
}

function withoutCallbacks(options: RunOptions): GuestRunOptions & { signal?: AbortSignal } {
  const { stdin: _stdin, onStdout: _onStdout, onStderr: _onStderr, ...rest } = options;
  return rest;
}

async function keep(stream: Readable, onChunk?: (chunk: Buffer) => void): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    onChunk?.(chunk);
    if (bytes >= KEPT_BYTES_MAX) continue;
    const part = chunk.subarray(0, KEPT_BYTES_MAX - bytes);
    bytes += part.length;
    chunks.push(part);
  }
  return Buffer.concat(chunks).toString('utf8');
}

// One runtime per process, opened by the first sandbox and closed with the last.
let opened: Promise<Runtime> | undefined;
let closing: Promise<void> = Promise.resolve();
let leases = 0;

interface Lease {
  readonly runtime: Runtime;
  readonly release: () => Promise<void>;
}

async function leaseRuntime(options: {
  signal: AbortSignal | undefined;
  onProgress: Progress | undefined;
  log: Log | undefined;
}): Promise<Lease> {
  leases += 1;
  let released = false;
  const release = async (): Promise<void> => {
    if (released) return;
    released = true;
    leases -= 1;
    if (leases > 0 || opened === undefined) return;
    const last = opened;
    opened = undefined;
    closing = closing.then(async () => (await last).close());
    await closing;
  };
  opened ??= closing.then(() =>
    Runtime.open({
      config: readConfig(process.env),
      progress: options.onProgress ?? silentProgress,
      log: options.log ?? silentLog,
      signal: options.signal ?? new AbortController().signal,
    }),
  );
  const mine = opened;
  try {
    return { runtime: await mine, release };
  } catch (error) {
    if (opened === mine) opened = undefined;
    released = true;
    leases -= 1;
    throw error;
  }
}

/** Resolves when a runtime that nobody uses any more is closed. */
async function idle(): Promise<void> {
  await closing;
}
