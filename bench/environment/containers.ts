/**
 * Container runtimes, the baseline of a start in an image: `crun run` and `runsc run` of the same root file system.
 * Debian packages: `crun`, `runsc`. A running shell starts each container, so Node's process start is not part of the
 * time.
 */
import { type ChildProcessByStdio, execFile, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { promisify } from 'node:util';
import { sleep } from '../../src/base/clock.ts';
import { describeError } from '../../src/base/errors.ts';
import { findProgram } from '../program.ts';

export type ContainerProgram = 'crun' | 'runsc';

/** For runsc, as `runsc do` in `gvisor.ts`. */
const FLAGS: Readonly<Record<ContainerProgram, readonly string[]>> = {
  crun: [],
  runsc: ['--network=none', '--platform=ptrace'],
};
/**
 * crun refuses hosts with control groups of both versions, so the mount of version 2 beside version 1 is hidden from
 * both. Each line is the name of a container. Uses pipes, since runsc shuts down sockets, which Node's are.
 */
const SHELL = `exec 3>&1
umount /sys/fs/cgroup/unified 2>/dev/null
(while read -r name; do "$@" "$name" </dev/null; echo "end $?"; done | cat) 2>&1 >&3 | cat >&2`;
const RUN_MS_MAX = 60_000;
/** Errors take another way than output. */
const ERRORS_MS = 100;
const ERROR_LENGTH_MAX = 300;

export interface ContainerSpec {
  /** Root file system, mounted read-only. */
  readonly tree: string;
  readonly argv: readonly string[];
  /** Expected output of the program. */
  readonly output: string;
}

export interface ContainerTimes {
  readonly firstOutputMs: number;
  /** Until it is removed. */
  readonly endMs: number;
}

export class Containers implements AsyncDisposable {
  readonly #shell: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #output: string;
  readonly #dir: string;
  #errors = '';
  #count = 0;

  private constructor(command: readonly string[], output: string, dir: string) {
    this.#output = output;
    this.#dir = dir;
    this.#shell = spawn('unshare', ['--mount', 'sh', '-c', SHELL, 'sh', ...command], {
      stdio: ['pipe', 'pipe', 'pipe'],
      // A process group of its own, so that hanging processes can be killed with it. It ends when its input does.
      detached: true,
    });
    this.#shell.stderr.on('data', (chunk: Buffer) => {
      this.#errors = (this.#errors + chunk.toString()).slice(-ERROR_LENGTH_MAX);
    });
    // The run notices a shell that is gone.
    this.#shell.stdin.on('error', () => undefined);
  }

  /** Runs one container, so that its files are cached. @returns a text that says why there is no comparison */
  static async open(name: ContainerProgram, { tree, argv, output }: ContainerSpec): Promise<Containers | string> {
    const program = findProgram(name, process.env);
    if (program === null) {
      return `not compared with ${name}: it is not in PATH (Debian: apt-get install ${name})`;
    }
    const dir = await mkdtemp(join(tmpdir(), 'nv-containers-'));
    let opened: Containers | undefined;
    try {
      const bundle = join(dir, 'bundle');
      await mkdir(bundle);
      await promisify(execFile)(program, ['spec'], { cwd: bundle });
      const path = join(bundle, 'config.json');
      await writeFile(path, configured(await readFile(path, 'utf8'), { tree, argv }));
      const command = [program, ...FLAGS[name], '--root', join(dir, 'state'), 'run', '--bundle'];
      opened = new Containers([...command, bundle], output, dir);
      await opened.run();
      return opened;
    } catch (error) {
      if (opened === undefined) await rm(dir, { recursive: true, force: true });
      else await opened[Symbol.asyncDispose]();
      return `not compared with ${name}, which does not run here: ${describeError(error)}`;
    }
  }

  /** Runs a container until it is gone. @throws if the program printed anything else, or failed */
  async run(): Promise<ContainerTimes> {
    const { stdout, stdin } = this.#shell;
    this.#count += 1;
    const name = `nv-bench-${process.pid}-${this.#count}`;
    const began = performance.now();
    let first = Number.NaN;
    let text = '';
    const timer = setTimeout(() => this.#kill(), RUN_MS_MAX);
    try {
      const end = await new Promise<ContainerEnd>((resolve, reject) => {
        stdout.removeAllListeners('data');
        stdout.on('data', (chunk: Buffer) => {
          if (text === '') first = performance.now();
          text += chunk.toString();
          const found = readEnd(text);
          if (found !== null) resolve(found);
        });
        this.#shell.removeAllListeners();
        this.#shell.once('error', reject);
        this.#shell.once('close', (code, signal) =>
          reject(new Error(`the shell ended ${code ?? signal}: ${this.#errors.trim()}`)),
        );
        stdin.write(`${name}\n`);
      });
      const endMs = performance.now() - began;
      if (end.exitCode === 0 && end.output === this.#output) {
        return { firstOutputMs: first - began, endMs };
      }
      await sleep(ERRORS_MS);
      const { exitCode, output } = end;
      throw new Error(`it printed ${JSON.stringify(output)} and ended ${exitCode}: ${this.#errors.trim()}`);
    } finally {
      clearTimeout(timer);
    }
  }

  #kill(): void {
    const { pid, exitCode, signalCode } = this.#shell;
    if (pid !== undefined && exitCode === null && signalCode === null) process.kill(-pid, 'SIGKILL');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const shell = this.#shell;
    shell.removeAllListeners();
    shell.on('error', () => undefined);
    if (shell.exitCode === null && shell.signalCode === null && shell.pid !== undefined) {
      const ended = new Promise((resolve) => shell.once('exit', resolve));
      shell.stdin.end();
      await ended;
    }
    await rm(this.#dir, { recursive: true, force: true });
  }
}

interface ContainerEnd {
  readonly output: string;
  readonly exitCode: number;
}

/** Output of a container before the shell's line; `null` if it has not ended. */
export function readEnd(text: string): ContainerEnd | null {
  const [, output = '', status = ''] = /^(.*)end (\d+)\n$/s.exec(text) ?? [];
  return status === '' ? null : { output, exitCode: Number(status) };
}

/** The runtime's own default configuration, with this program and these files. */
function configured(text: string, { tree, argv }: Pick<ContainerSpec, 'tree' | 'argv'>): string {
  const config = JSON.parse(text) as { process: object; root: object };
  return JSON.stringify({
    ...config,
    process: { ...config.process, terminal: false, args: argv },
    root: { path: tree, readonly: true },
  });
}
