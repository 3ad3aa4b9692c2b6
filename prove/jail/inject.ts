/** Makes processes run syscalls that they must not be able to make (`inject.c`, compiled on demand). */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { errorCode } from '../../src/base/errors.ts';
import { INSTALL_COMPILER, ProofError } from '../errors.ts';

const SOURCE = join(import.meta.dirname, 'inject.c');
const RUN_MS_MAX = 20_000;

export interface SystemCall {
  readonly name: string;
  /** The x86-64 number (asm/unistd_64.h). */
  readonly number: number;
  /** Numbers, or `@text` for the address of a text. */
  readonly args?: readonly (number | string)[];
}

export class Injector implements AsyncDisposable {
  readonly #dir: string;
  readonly #program: string;

  private constructor(dir: string) {
    this.#dir = dir;
    this.#program = join(dir, 'inject');
  }

  /** @throws ProofError `no_world` */
  static async make(): Promise<Injector> {
    const dir = await mkdtemp(join(tmpdir(), 'nv-inject-'));
    const injector = new Injector(dir);
    try {
      await run('gcc', ['-O2', '-Wall', '-static', '-o', injector.#program, SOURCE]);
      return injector;
    } catch (cause) {
      await rm(dir, { recursive: true });
      const isMissing = errorCode(cause) === 'ENOENT';
      const more = isMissing ? { remedy: INSTALL_COMPILER } : {};
      throw new ProofError('no_world', 'could not compile the program of the proof', { cause, ...more });
    }
  }

  /**
   * @param pid a process, or one of its threads
   * @returns `returned N`, `killed by N`, `exited N`, `executed`
   * @throws ProofError `no_world` if the call can't be injected
   */
  async call(pid: number, { name, number, args = [] }: SystemCall): Promise<string> {
    const words = ['call', String(pid), String(number), ...args.map(String)];
    try {
      return (await run(this.#program, words)).trim();
    } catch (cause) {
      throw new ProofError('no_world', `could not inject the system call ${name}`, { cause });
    }
  }

  /** The seccomp programs of a thread, the newest first. */
  async filters(tid: number): Promise<Uint8Array[]> {
    const text = await run(this.#program, ['filters', String(tid)]);
    return text
      .split('\n')
      .filter(Boolean)
      .map((line) => Buffer.from(line, 'hex'));
  }

  /** A process that waits for `go`, then does its work and reports. */
  worker(...words: readonly string[]): Worker {
    return new Worker(spawn(this.#program, words, { stdio: ['pipe', 'pipe', 'ignore'], detached: true }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#dir, { recursive: true, force: true });
  }
}

class Worker {
  readonly #child: ChildProcess;

  constructor(child: ChildProcess) {
    this.#child = child;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** @returns its output, or `killed by SIGKILL` */
  go(): Promise<string> {
    const child = this.#child;
    return new Promise((resolve, reject) => {
      let said = '';
      child.stdout?.on('data', (bytes: Buffer) => {
        said += bytes.toString('latin1');
      });
      child.once('error', reject);
      child.once('close', (_, signal) => resolve(signal === null || said !== '' ? said.trim() : `killed by ${signal}`));
      child.stdin?.end('\n');
    });
  }
}

function run(program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { timeout: RUN_MS_MAX, killSignal: 'SIGKILL' }, (error, stdout) => {
      if (error === null) resolve(stdout);
      else reject(error);
    });
  });
}
