/**
 * `run --watch`: a run in a process of its own, which ends and begins anew when a file changes that it brings along. So
 * each run has a fresh sandbox, and what ends a run is what ends every run: SIGTERM.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { type FSWatcher, watch } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { ignore } from '../../../base/ignore.ts';
import { plain } from '../../../base/text/plain.ts';
import type { Cli } from '../../cli.ts';
import { exitOfSignal } from '../../exit-status.ts';
import { UsageError } from '../../failure.ts';
import { isDirectory } from '../../flags/requirement-flags.ts';
import type { Out } from '../../transfer/copies.ts';
import type { RunFlags } from './job.ts';
import type { Script } from './script.ts';

/** An editor that saves writes more than once. */
const QUIET_MS = 100;
const DIRECTORIES_MAX = 1_000;
/** Not brought along either; and what editors leave for a moment. */
const IGNORED = /^(?:\.|__pycache__$|node_modules$)|~$/;

/** Files and directories of this machine that a run brings along; and what it writes here, which are no changes. */
export interface Watched {
  readonly sources: readonly string[];
  readonly written: readonly string[];
}

/** @throws UsageError: nothing can change, or the run writes what it brings along, or needs the terminal */
export function watchedBy(
  { path, project }: Script,
  flags: Pick<RunFlags, 'copy' | 'project' | 'sync' | 'tty'>,
  outs: readonly Out[],
): Watched {
  const other = flags.sync === true ? '--sync' : flags.tty === true ? '-it' : null;
  if (other !== null) throw new UsageError(`--watch and ${other} are mutually exclusive`, 'omit one of them');
  const copied = flags.copy.map((one) => one.split(':', 1)[0] ?? '');
  const sources = [path, project, flags.project ?? null, ...copied].filter((one) => one !== null);
  const written = outs.map(({ path: from, host }) => (host === '.' ? basename(from) : host));
  if (sources.length > 0) return { sources, written };
  throw new UsageError('--watch needs a file or a directory', 'name a script: neurovisor run --watch FILE');
}

/**
 * @param command of one run: program and arguments
 * @returns the exit status of this command, once a signal ends it
 */
export async function watchRuns(cli: Cli, watched: Watched, command: readonly string[]): Promise<number> {
  const ended = Promise.withResolvers<void>();
  let run: ChildProcess | null = null;
  cli.onSignal((signal) => {
    // Ctrl-C reaches all processes of a terminal.
    if (signal !== 'SIGINT' || cli.stdin.isTTY !== true) run?.kill(signal);
    ended.resolve();
  }, null);
  cli.onEnd(() => {
    run?.kill('SIGKILL');
    ended.resolve();
  });
  const [program = '', ...args] = command;
  const say = (text: string): void => void cli.stderr.write(`neurovisor: ${text}\n`);
  while (cli.signalStatus === null) {
    await using changes = await Changes.of(watched);
    run = spawn(program, args, { stdio: 'inherit' });
    const exit = Promise.withResolvers<number>();
    run.on('error', exit.reject);
    run.on('exit', (code) => exit.resolve(code ?? exitOfSignal('SIGKILL')));
    const first = await Promise.race([exit.promise, changes.next, ended.promise]);
    const hasChanged = typeof first === 'string';
    if (hasChanged) run.kill('SIGTERM');
    const status = await exit.promise;
    if (cli.signalStatus !== null) break;
    // The reader of its output has left.
    if (status === exitOfSignal('SIGPIPE')) return status;
    if (!hasChanged) {
      say(`ended with status ${status}; waiting for a change (Ctrl-C ends)`);
      await Promise.race([changes.next, ended.promise]);
      if (cli.signalStatus !== null) break;
    }
    say(`${plain(await changes.next)} has changed`);
  }
  return cli.signalStatus ?? exitOfSignal('SIGINT');
}

/** Watches files by their directories: editors replace files. */
class Changes implements AsyncDisposable {
  /** What changes first: a path, relative to the current directory. */
  readonly next: Promise<string>;
  readonly #changed = Promise.withResolvers<string>();
  readonly #watchers: FSWatcher[] = [];
  readonly #written: readonly string[];
  #timer: NodeJS.Timeout | undefined;

  private constructor(written: readonly string[]) {
    this.next = this.#changed.promise;
    this.#written = written.map((path) => resolve(path));
  }

  /** @throws UsageError: too many directories */
  static async of({ sources, written }: Watched): Promise<Changes> {
    const changes = new Changes(written);
    for (const source of sources) {
      if (await isDirectory(source)) await changes.#addTree(resolve(source));
      else changes.#add(dirname(resolve(source)), basename(source));
    }
    return changes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    for (const watcher of this.#watchers) watcher.close();
  }

  async #addTree(directory: string): Promise<void> {
    this.#add(directory, null);
    const entries = await readdir(directory, { withFileTypes: true }).catch((error: unknown) => {
      ignore(error, 'it is gone already, or the run reports it');
      return [];
    });
    for (const entry of entries) {
      if (entry.isDirectory() && !IGNORED.test(entry.name)) await this.#addTree(join(directory, entry.name));
    }
  }

  /** @param only the name of a file in the directory; null: all of them */
  #add(directory: string, only: string | null): void {
    if (this.#watchers.length >= DIRECTORIES_MAX) {
      throw new UsageError(`--watch: more than ${DIRECTORIES_MAX} directories`, 'name a smaller directory');
    }
    try {
      const watcher = watch(directory, (_kind, name) => {
        if (name === null || (only === null ? IGNORED.test(name) : name !== only)) return;
        const path = join(directory, name);
        if (this.#written.some((one) => path === one || path.startsWith(`${one}/`))) return;
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.#changed.resolve(relative('', path)), QUIET_MS);
      });
      watcher.on('error', (error) => ignore(error, 'the directory is gone: a change of its parent'));
      this.#watchers.push(watcher);
    } catch (error) {
      ignore(error, 'it is gone already, or the run reports it');
    }
  }
}
