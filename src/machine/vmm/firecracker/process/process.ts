/** The Firecracker process: its serial line (stdin and stdout), log, counters and exit. */
import type { ChildProcess } from 'node:child_process';
import type { Socket } from 'node:net';
import { PassThrough, type Readable, type Writable } from 'node:stream';
import type { Clock } from '../../../../base/clock.ts';
import { errorCode } from '../../../../base/errors.ts';
import { tryOr } from '../../../../base/ignore.ts';
import { isRunning, startTicksOf } from '../../../../sys/process-start.ts';
import { isPidAlive } from '../../alive.ts';
import { childEnd, drain } from '../../child-end.ts';
import type { Vm, VmExit } from '../../driver.ts';
import { VmmError } from '../../errors.ts';
import type { LaunchStdio } from '../../launch.ts';
import { ByteTail } from '../../tail.ts';
import type { ApiClient } from '../api-client.ts';
import { judgeExit } from './exit.ts';
import { MetricsReader } from './metrics.ts';
import { PipeReader } from './pipe-reader.ts';
import { SerialInput } from './serial-input.ts';
import { lastDescendant, unwrapEnd } from './wrapped.ts';

const CONSOLE_TAIL_BYTES = 64 * 1024;
const STDERR_TAIL_BYTES = 4 * 1024;
/** A guest can make Firecracker log endlessly; only the last bytes matter. */
const LOG_TAIL_BYTES = 16 * 1024;

interface ProcessPipes {
  /** Existing named pipes. */
  readonly logPath: string;
  readonly metricsPath: string;
  readonly inputPath: string;
}

/** The process of a VM, whether or not it is our child. */
export type VmmProcess = Pick<
  FirecrackerProcess,
  'api' | 'metrics' | 'terminal' | 'exited' | 'pid' | 'isAlive' | 'consoleTail' | 'logs' | 'kill'
>;

export class FirecrackerProcess {
  readonly api: ApiClient;
  readonly metrics = new MetricsReader();
  readonly terminal: { readonly input: Writable; readonly output: Readable } | null;
  /** Resolves when the process is gone and its output has been read. Never rejects. */
  readonly exited: Promise<VmExit>;
  readonly #child: ChildProcess;
  readonly #pipes: readonly PipeReader[];
  readonly #serialTail = new ByteTail(CONSOLE_TAIL_BYTES);
  readonly #stderr = new ByteTail(STDERR_TAIL_BYTES);
  readonly #log = new ByteTail(LOG_TAIL_BYTES);
  /** Stderr and log together, in order of time. */
  readonly #said = new ByteTail(LOG_TAIL_BYTES);
  readonly #isWrapped: boolean;
  #wrapped: { readonly pid: number; readonly startTicks: string } | undefined;
  readonly #output: PassThrough | null;
  readonly #input: Socket | null;
  #spawnError: Error | undefined;
  #killed = false;

  /** @param options.spawn starts the process with the given stdio; called once the pipes exist */
  constructor(options: {
    spawn: (stdio: LaunchStdio) => ChildProcess;
    api: ApiClient;
    pipes: ProcessPipes;
    clock: Clock;
    interactive: boolean;
    /** `spawn` starts a wrapper whose last descendant is Firecracker and which ends after it. */
    isWrapped?: boolean;
  }) {
    const { api, pipes, clock, interactive } = options;
    this.#isWrapped = options.isWrapped ?? false;
    this.api = api;
    this.#pipes = [
      new PipeReader(pipes.logPath, (bytes) => this.#hear(bytes, this.#log)),
      new PipeReader(pipes.metricsPath, (bytes) => this.metrics.push(bytes)),
    ];
    const typed = interactive ? new SerialInput(pipes.inputPath) : null;
    this.#input = typed?.writable ?? null;
    try {
      this.#child = options.spawn([typed?.fd ?? 'ignore', 'pipe', 'pipe']);
    } catch (error) {
      for (const pipe of this.#pipes) pipe.finish();
      this.#input?.destroy();
      throw error;
    } finally {
      typed?.handedOver();
    }
    const child = this.#child;
    child.stderr?.on('data', (bytes: Buffer) => this.#hear(bytes, this.#stderr));
    // Always read, so that a guest that floods its console blocks nothing.
    child.stdout?.on('data', (bytes: Buffer) => this.#serialTail.push(bytes));
    this.#output = interactive ? new PassThrough() : null;
    this.terminal = this.#output !== null && this.#input !== null ? { input: this.#input, output: this.#output } : null;
    if (this.#output !== null) child.stdout?.pipe(this.#output, { end: false });
    this.exited = this.#watch(clock);
  }

  /** The wrapper's pid until `settle`, if there is a wrapper. */
  get pid(): number | null {
    return this.#wrapped?.pid ?? this.#child.pid ?? null;
  }

  /** Finds the wrapped process; call it once the API has answered. */
  settle(): void {
    const { pid } = this.#child;
    if (!this.#isWrapped || pid === undefined) return;
    const found = lastDescendant(pid);
    this.#wrapped = { pid: found, startTicks: startTicksOf(found) ?? '' };
  }

  isAlive(): boolean {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return false;
    return isPidAlive(this.pid);
  }

  consoleTail(): string {
    return this.#serialTail.text();
  }

  get logs(): Vm['logs'] {
    return { console: this.#serialTail, vmm: this.#said };
  }

  #hear(bytes: Buffer, tail: ByteTail): void {
    tail.push(bytes);
    this.#said.push(bytes);
  }

  /** Resolves when the process is gone. Idempotent. */
  async kill(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#killed = true;
      // The wrapper then ends too. Killing the wrapper ends its pid namespace, once it has made one.
      if (this.#wrapped !== undefined && isRunning(this.#wrapped)) end(this.#wrapped.pid);
      else this.#endGroup();
    }
    await this.exited;
  }

  /** A child of the wrapper may not be tied to it yet. */
  #endGroup(): void {
    if (this.#isWrapped && this.#child.pid !== undefined) end(-this.#child.pid);
    this.#child.kill('SIGKILL');
  }

  /** The error of a failed start, once `exited` has resolved. */
  startFailure(exit: VmExit): VmmError {
    const code = errorCode(this.#spawnError) === 'ENOENT' ? 'vmm_missing' : 'vmm_start_failed';
    const how = exit.signal === null ? `it ended with status ${exit.exitCode}` : `it got ${exit.signal}`;
    return new VmmError(code, 'Firecracker could not be started', {
      cause: this.#spawnError ?? (exit.detail === '' ? how : `${how}: ${exit.detail}`),
    });
  }

  async #watch(clock: Clock): Promise<VmExit> {
    const child = this.#child;
    await childEnd(child, (error) => {
      this.#spawnError = error;
    });
    this.api.close();
    if (this.#output !== null) this.#finishTerminal(this.#output);
    await drain([closed(child.stdout), closed(child.stderr)], clock);
    for (const stream of [this.#input, child.stdout, child.stderr]) stream?.destroy();
    for (const pipe of this.#pipes) pipe.finish();
    this.#output?.end();
    const { exitCode, signalCode } = child;
    return judgeExit({
      ...(this.#isWrapped ? unwrapEnd(exitCode, signalCode) : { exitCode, signal: signalCode }),
      killed: this.#killed,
      log: this.#log.text(),
      stderr: this.#stderr.text(),
    });
  }

  /** Sends the remaining output to the terminal, read or not; a pipe's buffer bounds it. */
  #finishTerminal(output: PassThrough): void {
    const { stdout } = this.#child;
    stdout?.unpipe(output);
    stdout?.on('data', (bytes: Buffer) => output.write(bytes));
    stdout?.resume();
  }
}

function end(pid: number): void {
  tryOr(undefined, 'the process has just ended', () => process.kill(pid, 'SIGKILL'));
}

function closed(stream: Readable | null): Promise<void> {
  if (stream === null || stream.closed) return Promise.resolve();
  return new Promise((resolve) => stream.once('close', () => resolve()));
}
