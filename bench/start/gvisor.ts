/**
 * gVisor, the baseline of a start: a user-space kernel that runs the host's programs without a network. Uses systrap,
 * its platform since 2023, or ptrace if systrap is missing, as in Debian's package `runsc`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeError } from '../../src/base/errors.ts';
import { PRINT_ONE } from '../output.ts';
import { findProgram } from '../program.ts';

const RUNSC = 'runsc';
const PLATFORMS = ['systrap', 'ptrace'] as const;
const RUN_MS_MAX = 60_000;
const ERROR_LENGTH_MAX = 300;

export class Gvisor implements AsyncDisposable {
  readonly #program: string;
  readonly platform: (typeof PLATFORMS)[number];
  /** Temporary directory for the leftovers of `runsc do`. */
  readonly #dir: string;

  private constructor(program: string, platform: (typeof PLATFORMS)[number], dir: string) {
    this.#program = program;
    this.platform = platform;
    this.#dir = dir;
  }

  /** Runs it once, so that its files are cached. @returns a text that says why there is no comparison */
  static async open(): Promise<Gvisor | string> {
    const program = findProgram(RUNSC, process.env);
    if (program === null) {
      return 'not compared with gVisor: runsc is not in PATH (Debian: apt-get install runsc)';
    }
    const dir = await mkdtemp(join(tmpdir(), 'nv-gvisor-'));
    let failure: unknown;
    for (const platform of PLATFORMS) {
      const gvisor = new Gvisor(program, platform, dir);
      try {
        await gvisor.startMs();
        await gvisor.printOneMs();
        return gvisor;
      } catch (error) {
        failure = error;
      }
    }
    await rm(dir, { recursive: true, force: true });
    return `not compared with gVisor, which does not run here: ${describeError(failure)}`;
  }

  /** Milliseconds until `true` has ended. */
  async startMs(): Promise<number> {
    return (await this.#run(['true'], '')).exitMs;
  }

  /** Milliseconds until the host's python3 has printed. */
  async printOneMs(): Promise<number> {
    const { code, output } = PRINT_ONE;
    return (await this.#run(['python3', '-c', code], output)).firstOutputMs;
  }

  async #run(
    argv: readonly string[],
    output: string,
  ): Promise<{ readonly firstOutputMs: number; readonly exitMs: number }> {
    const began = performance.now();
    const child = this.#spawn(argv);
    let first = Number.NaN;
    let text = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      if (text === '') first = performance.now();
      text += chunk.toString();
    });
    const timer = setTimeout(() => child.kill('SIGKILL'), RUN_MS_MAX);
    try {
      const end = await endOf(child);
      const exitMs = performance.now() - began;
      if (end.exitCode === 0 && text === output) return { firstOutputMs: first - began, exitMs };
      throw new Error(`${argv[0]} in gVisor printed ${JSON.stringify(text)}: ${end.text}`);
    } finally {
      clearTimeout(timer);
    }
  }

  #spawn(argv: readonly string[]): ChildProcess {
    return spawn(this.#program, ['--network=none', `--platform=${this.platform}`, 'do', ...argv], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TMPDIR: this.#dir },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#dir, { recursive: true, force: true });
  }
}

function endOf(child: ChildProcess): Promise<{ exitCode: number | null; text: string }> {
  let errors = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString()).slice(-ERROR_LENGTH_MAX);
  });
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ exitCode: null, text: describeError(error) }));
    child.once('close', (exitCode, signal) => {
      resolve({ exitCode, text: `ended ${exitCode ?? signal} ${errors.trim()}` });
    });
  });
}
