/**
 * # engine: the built-in model server
 *
 * Used when no other model server is configured or found. One child process serves the OpenAI API on a unix
 * socket, so to the bridge it is an upstream like any other.
 *
 *     startEngine ──spawn──► main.ts ── server.ts ── service.ts ── llama.ts ── llama.cpp
 *        │  ▲                            paths,       prompt.ts     tokens,     CPU, CUDA
 *        │  └─ stdout: JSON lines        streams      grammar.ts    slots       or Vulkan
 *        └──── stdin: held open; when it closes, the child exits
 *
 * A child process, because llama.cpp is native code: when it crashes or runs out of memory, the daemon and
 * its sandboxes keep running. The socket opens before the model is loaded, and requests wait for the model,
 * so the bridge need not know whether the engine is ready.
 *
 * Terms: *slot*: room for one generation; several share each pass through the model. *Prefix reuse*: a slot
 * keeps the computed state of its last conversation, and a request that continues it computes only the new
 * part. *Grammar*: rules for the next token, which make JSON answers and tool calls well-formed even from a
 * weak model.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import type { Clock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import type { Log } from '../base/log.ts';
import { modulePath } from '../base/module-path.ts';
import type { ChildConfig, ChildEvent, ReadyInfo } from './child-protocol.ts';
import { EngineError } from './errors.ts';
import type { GpuChoice } from './llama.ts';

/** Timeout for opening the socket, before anything is loaded, milliseconds. */
const LISTEN_TIMEOUT_MS = 30_000;
/** Time from the request to exit until SIGKILL, milliseconds. */
const STOP_TIMEOUT_MS = 2_000;
const CONTEXT_TOKENS = 4_096;
/** Bytes of a path in `sockaddr_un`, without the terminating NUL (unix(7)). */
const SOCKET_PATH_MAX = 107;
/** Lines of stderr kept for the message of a crash. */
const STDERR_LINES_KEPT = 8;
/** Environment variables that the child gets: never API keys. */
const ENV_PATTERN =
  /^(PATH|HOME|TMPDIR|LANG|LC_|LD_LIBRARY_PATH|CUDA|NVIDIA|VK_|GGML_|XDG_|NODE_PATH)/;

export interface EngineOptions {
  /** A GGUF file. */
  readonly modelPath: string;
  /** Name of the model in requests. */
  readonly modelId: string;
  /** Made by the engine, removed when it stops; at most 107 bytes. */
  readonly socketPath: string;
  /** CPU threads for inference; default: physical cores less one, at least one. */
  readonly threads?: number;
  /** `auto`: CUDA, else Vulkan, else the CPU. */
  readonly gpu?: GpuChoice;
  /** Limit for a prompt and its answer, tokens; default 4,096. */
  readonly contextTokens?: number;
  /** Concurrent generations; default 4 on a GPU, 2 on the CPU. Each needs memory for its context. */
  readonly parallel?: number;
  /** For development: also listen on this port of 127.0.0.1; 0: any free port. */
  readonly port?: number;
  readonly log: Log;
  readonly clock: Clock;
  /** Stops the engine when it aborts. */
  readonly signal?: AbortSignal;
}

export interface Engine {
  readonly socketPath: string;
  readonly modelId: string;
  readonly pid: number;
  /** The port opened for `EngineOptions.port`, else null. */
  readonly port: number | null;
  /** Resolves when the model is loaded. Rejects with an `EngineError` when that fails or the process ends first. */
  readonly ready: Promise<ReadyInfo>;
  /** Resolves when the process has exited: null after `stop`, else the error. Never rejects. */
  readonly exited: Promise<EngineError | null>;
  /** Stops the process; resolves when it has exited and its socket is removed. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts the engine. Resolves when the socket accepts requests; those that need the model wait until it is
 * loaded (`ready`).
 * @throws EngineError `listen_failed`, `engine_crashed`, `engine_stopped`
 */
export async function startEngine(options: EngineOptions): Promise<Engine> {
  if (Buffer.byteLength(options.socketPath) > SOCKET_PATH_MAX) {
    throw new EngineError(
      'listen_failed',
      `the socket path ${options.socketPath} is longer than ${SOCKET_PATH_MAX} bytes`,
      {
        remedy: 'choose a home directory with a shorter path',
      },
    );
  }
  const engine = new EngineProcess(options);
  await engine.listening;
  return engine;
}

class EngineProcess implements Engine {
  readonly socketPath: string;
  readonly modelId: string;
  readonly ready: Promise<ReadyInfo>;
  readonly exited: Promise<EngineError | null>;
  readonly listening: Promise<void>;
  port: number | null = null;
  readonly #options: EngineOptions;
  readonly #child: ChildProcess;
  readonly #stderr: string[] = [];
  #stopping: Promise<void> | undefined;
  #failure: EngineError | undefined;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.socketPath = options.socketPath;
    this.modelId = options.modelId;
    this.#child = spawn(
      process.execPath,
      [
        '--disable-warning=ExperimentalWarning',
        modulePath('./main.ts', import.meta.url),
        JSON.stringify(childConfig(options)),
      ],
      { stdio: ['pipe', 'pipe', 'pipe'], env: engineEnvironment() },
    );
    const listening = Promise.withResolvers<void>();
    const ready = Promise.withResolvers<ReadyInfo>();
    this.listening = listening.promise;
    this.ready = ready.promise;
    this.ready.catch((error: unknown) => ignore(error, 'exited and each request report it, too'));
    this.exited = this.#watch((error) => {
      listening.reject(error);
      ready.reject(error);
    });
    this.#read(listening.resolve, ready.resolve);
    const cancel = options.clock.after(LISTEN_TIMEOUT_MS, () => {
      listening.reject(
        new EngineError(
          'engine_crashed',
          `the engine opened no socket within ${LISTEN_TIMEOUT_MS} ms`,
        ),
      );
      void this.stop();
    });
    this.listening.then(cancel, cancel);
    options.signal?.addEventListener('abort', () => void this.stop(), { once: true });
    if (options.signal?.aborted) void this.stop();
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#child.stdin?.end();
    const cancel = this.#options.clock.after(STOP_TIMEOUT_MS, () => this.#child.kill('SIGKILL'));
    await this.exited;
    cancel();
  }

  async #watch(fail: (error: EngineError) => void): Promise<EngineError | null> {
    const { log } = this.#options;
    const reason = await new Promise<string>((resolve) => {
      this.#child.on('error', (error) => resolve(error.message));
      this.#child.on('close', (code, signal) => resolve(signal ?? `exit status ${code}`));
    });
    await rm(this.socketPath, { force: true });
    if (this.#stopping !== undefined) {
      fail(new EngineError('engine_stopped', 'the engine was stopped'));
      return null;
    }
    const error = this.#failure ?? crash(reason, this.#stderr);
    log.error(error.message, { code: error.code });
    fail(error);
    return error;
  }

  #read(listening: () => void, ready: (info: ReadyInfo) => void): void {
    const { log } = this.#options;
    const { stdout, stderr, stdin } = this.#child;
    stdin?.on('error', (error) => ignore(error, 'the process ended; exited reports it'));
    if (stdout === null || stderr === null) return;
    createInterface({ input: stdout }).on('line', (line) => {
      const event = parseEvent(line);
      if (event === undefined) log.debug('engine', { line });
      else if (event.type === 'listening') {
        this.port = event.port;
        listening();
      } else if (event.type === 'ready') {
        const { gpu, threads, loadMs } = event.info;
        log.info('engine ready', { gpu, threads, loadMs });
        ready(event.info);
      } else {
        const { code, message, remedy } = event;
        this.#failure = new EngineError(code, message, remedy === null ? {} : { remedy });
      }
    });
    createInterface({ input: stderr }).on('line', (line) => {
      log.debug('engine', { line });
      this.#stderr.push(line);
      if (this.#stderr.length > STDERR_LINES_KEPT) this.#stderr.shift();
    });
  }
}

function childConfig(options: EngineOptions): ChildConfig {
  return {
    modelPath: options.modelPath,
    modelId: options.modelId,
    socketPath: options.socketPath,
    port: options.port ?? null,
    gpu: options.gpu ?? 'auto',
    threads: options.threads ?? null,
    contextTokens: options.contextTokens ?? CONTEXT_TOKENS,
    slots: options.parallel ?? null,
  };
}

export function engineEnvironment(): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => ENV_PATTERN.test(name)));
}

function parseEvent(line: string): ChildEvent | undefined {
  if (!line.startsWith('{"type":"')) return undefined;
  return JSON.parse(line) as ChildEvent;
}

function crash(reason: string, stderr: readonly string[]): EngineError {
  const remedy =
    reason === 'SIGKILL'
      ? 'the OOM killer may have killed it: use a smaller model, or give the machine more memory'
      : 'try again with NEUROVISOR_GPU=cpu, or use another model';
  return new EngineError('engine_crashed', `the engine ended unexpectedly (${reason})`, {
    remedy,
    ...(stderr.length === 0 ? {} : { cause: new Error(stderr.join('\n')) }),
  });
}
