/**
 * Runs the built-in model server in a child process, if no other model server is configured or found. The child serves
 * the OpenAI API on a unix socket, so for the bridge it is an upstream like any other.
 *
 *     startEngine ──launch─► main.ts ── server.ts ── service.ts ── llama.ts ── llama.cpp
 *        │  ▲                            paths,       prompt.ts     tokens,     CPU, CUDA
 *        │  └─ stdout: JSON lines        streams      grammar.ts    slots       or Vulkan
 *        └──── stdin: held open; when it closes, the child exits
 *
 * llama.cpp is native code: if it crashes or runs out of memory, the daemon and its sandboxes keep running. The child
 * can be jailed (`EngineLaunch`), since prompts and grammars are hostile. The socket opens before the model is loaded,
 * and requests wait for the model, so the bridge need not know whether the engine is ready.
 *
 * Terms: *slot*: room for one generation; several share each pass through the model. *Prefix reuse*: a slot keeps the
 * computed state of its last conversation, and a request that continues it computes only the new part. *Grammar*: rules
 * for the next token, which make JSON answers and tool calls well-formed even from a weak model.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { constants } from 'node:os';
import { createInterface } from 'node:readline';
import type { Clock } from '../../base/clock.ts';
import { CodedError, describeError } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { modulePath } from '../../base/module-path.ts';
import { type ChildConfig, type ReadyInfo, readEvent } from './child-protocol.ts';
import { EngineError } from './errors.ts';
import type { GpuChoice } from './load.ts';

/** Limit for opening the socket, before anything is loaded. */
const LISTEN_TIMEOUT_MS = 30_000;
/** From the request to exit until SIGKILL. */
const STOP_TIMEOUT_MS = 2_000;
const CONTEXT_TOKENS = 4_096;
/** Bytes of a path in `sockaddr_un`, without the terminating NUL (unix(7)). */
const SOCKET_PATH_MAX = 107;
/** Notices that one process may log; a child that a guest has taken over could fill the log. */
const NOTICES_MAX = 16;
const STDERR_LINES_KEPT = 8;
/** Environment variables that the child gets: never API keys. */
const ENV_PATTERN = /^(PATH|HOME|TMPDIR|LANG|LC_|LD_LIBRARY_PATH|CUDA|NVIDIA|VK_|GGML_|XDG_|NODE_PATH)/;

export interface EngineOptions {
  readonly modelPath: string;
  readonly modelId: string;
  /** Created by the engine, removed when it stops; at most 107 bytes. */
  readonly socketPath: string;
  /** CPU threads for inference. Default: physical cores minus one, at least one. */
  readonly threads?: number;
  /** `auto`: CUDA, else Vulkan, else the CPU. */
  readonly gpu?: GpuChoice;
  /** Default 4,096. */
  readonly contextTokens?: number;
  /** Concurrent generations. Default 4 on a GPU, 2 on the CPU. Each needs memory for its context. */
  readonly parallel?: number;
  /** For development: also listen on this port of 127.0.0.1; 0 selects a free port. */
  readonly port?: number;
  readonly log: Log;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /** Starts the process. By default it is not jailed and opens its socket itself. */
  readonly launch?: EngineLaunch;
}

/**
 * Starts the engine's process in a jail.
 *
 * - Its descriptors 0, 1 and 2 are pipes; 3 is a socket that listens at the path.
 * - It ends when this process does, even by SIGKILL.
 */
export type EngineLaunch = (plan: {
  /** The program by its absolute path, and its arguments. */
  readonly argv: readonly string[];
  readonly modelPath: string;
  readonly socketPath: string;
  readonly environment: Readonly<Record<string, string>>;
}) => Promise<LaunchedEngine>;

export interface LaunchedEngine {
  /** The engine, or a process that ends with it; then a status of 128 + n means that signal n ended it. */
  readonly child: ChildProcess;
  readonly pid: number;
  /** Kills the engine. Idempotent. */
  kill(): void;
  /** Call after the end of `child`. */
  release(): Promise<void>;
}

export interface Engine {
  readonly socketPath: string;
  readonly modelId: string;
  readonly pid: number;
  /** The port opened for `EngineOptions.port`, else `null`. */
  readonly port: number | null;
  /** Resolves when the model is loaded. Rejects with an `EngineError` if loading fails or the process ends first. */
  readonly ready: Promise<ReadyInfo>;
  /** Resolves when the process has exited: with `null` after `stop`, else with the error. Never rejects. */
  readonly exited: Promise<EngineError | null>;
  /** Stops the process; resolves when it has exited and its socket is removed. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts the engine. Resolves when the socket accepts requests; those that need the model wait until it is loaded
 * (`ready`).
 * @throws EngineError `listen_failed`, `engine_crashed`, `engine_stopped`
 */
export async function startEngine(options: EngineOptions): Promise<Engine> {
  if (Buffer.byteLength(options.socketPath) > SOCKET_PATH_MAX) {
    throw new EngineError(
      'listen_failed',
      `the socket path ${options.socketPath} is longer than ${SOCKET_PATH_MAX} bytes`,
      { remedy: 'choose a home directory with a shorter path' },
    );
  }
  const engine = new EngineProcess(options, await launchEngine(options));
  await engine.listening;
  return engine;
}

/** @throws EngineError `engine_crashed` */
async function launchEngine(options: EngineOptions): Promise<LaunchedEngine> {
  const { launch, modelPath, socketPath } = options;
  const config = JSON.stringify(childConfig(options));
  const main = modulePath('./main.ts', import.meta.url);
  const argv = [process.execPath, '--disable-warning=ExperimentalWarning', main, config];
  const environment = engineEnvironment();
  if (launch === undefined) return launchFree(argv, environment);
  try {
    return await launch({ argv, modelPath, socketPath, environment });
  } catch (cause) {
    throw new EngineError('engine_crashed', 'the engine could not be started in its jail', {
      cause,
      remedy: remedyOf(cause) ?? 'run `neurovisor doctor --security`, or use another model server',
    });
  }
}

function remedyOf(error: unknown): string | undefined {
  return error instanceof CodedError ? error.remedy : undefined;
}

function launchFree(
  [command = '', ...args]: readonly string[],
  environment: Readonly<Record<string, string>>,
): LaunchedEngine {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: environment });
  return { child, pid: child.pid ?? -1, kill: () => child.kill('SIGKILL'), release: () => Promise.resolve() };
}

class EngineProcess implements Engine {
  readonly socketPath: string;
  readonly modelId: string;
  readonly ready: Promise<ReadyInfo>;
  readonly exited: Promise<EngineError | null>;
  readonly listening: Promise<void>;
  port: number | null = null;
  readonly #options: EngineOptions;
  readonly #launched: LaunchedEngine;
  readonly #child: ChildProcess;
  readonly #stderr: string[] = [];
  #stopping: Promise<void> | undefined;
  #failure: EngineError | undefined;

  constructor(options: EngineOptions, launched: LaunchedEngine) {
    this.#options = options;
    this.socketPath = options.socketPath;
    this.modelId = options.modelId;
    this.#launched = launched;
    this.#child = launched.child;
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
      listening.reject(new EngineError('engine_crashed', `the engine opened no socket within ${LISTEN_TIMEOUT_MS} ms`));
      void this.stop();
    });
    this.listening.then(cancel, cancel);
    options.signal?.addEventListener('abort', () => void this.stop(), { once: true });
    if (options.signal?.aborted) void this.stop();
  }

  get pid(): number {
    return this.#launched.pid;
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#child.stdin?.end();
    // As the first process of its jail, the engine can't kill itself.
    const delayMs = this.#options.launch === undefined ? STOP_TIMEOUT_MS : 0;
    const cancel = this.#options.clock.after(delayMs, () => this.#launched.kill());
    await this.exited;
    cancel();
  }

  async #watch(fail: (error: EngineError) => void): Promise<EngineError | null> {
    const { log } = this.#options;
    const reason = await new Promise<string>((resolve) => {
      this.#child.on('error', (error) => resolve(error.message));
      this.#child.on('close', (code, signal) => resolve(signal ?? endOf(code)));
    });
    await rm(this.socketPath, { force: true });
    await this.#launched.release().catch((error: unknown) => {
      log.warn('could not remove the jail of the engine', { error: describeError(error) });
    });
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
    let notices = 0;
    createInterface({ input: stdout }).on('line', (line) => {
      const event = readEvent(line);
      if (event === undefined) log.debug('engine', { line });
      else if (event.type === 'listening') {
        this.port = event.port;
        listening();
      } else if (event.type === 'ready') {
        const { gpu, gpuLayers, layers, threads, loadMs } = event.info;
        log.info('engine ready', { gpu, gpuLayers, layers, threads, loadMs });
        ready(event.info);
      } else if (event.type === 'notice') {
        if (notices++ < NOTICES_MAX) log.warn(`engine: ${event.message}`);
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
    socket: options.launch === undefined ? options.socketPath : JAILED_SOCKET_FD,
    port: options.port ?? null,
    gpu: options.gpu ?? 'auto',
    threads: options.threads ?? null,
    contextTokens: options.contextTokens ?? CONTEXT_TOKENS,
    slots: options.parallel ?? null,
  };
}

const JAILED_SOCKET_FD = 3;

export function engineEnvironment(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(process.env).flatMap(([name, value]) =>
      value !== undefined && ENV_PATTERN.test(name) ? [[name, value]] : [],
    ),
  );
}

function endOf(status: number | null): string {
  const number = (status ?? 0) - SIGNALED;
  const [name] = Object.entries(constants.signals).find(([, value]) => value === number) ?? [];
  return name ?? `exit status ${status}`;
}

const SIGNALED = 128;

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
