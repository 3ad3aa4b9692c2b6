/** Copies files of this machine into a guest: `cp PATH ID:TARGET` and `run --copy PATH[:TARGET]`. */
import { createReadStream } from 'node:fs';
import { lstat, readdir, readlink, realpath, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { describeError, errorCode } from '../../base/errors.ts';
import type { Guest } from '../../guest/link.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { CopyError, ENTRIES_MAX, someAtOnce, TransferProgress } from './transfer.ts';

interface Planned {
  readonly type: 'file' | 'directory' | 'symlink';
  /** Path on this machine. */
  readonly from: string;
  /** Path in the guest. */
  readonly to: string;
  readonly mode: number;
  readonly bytes: number;
}

export interface CopyInOptions {
  readonly user?: string | undefined;
}

/** A copied file or directory. */
export interface Copied {
  /** Real path on this machine. */
  readonly from: string;
  /** Path in the guest. */
  readonly to: string;
}

/** `--copy PATH[:TARGET]`: as `cp PATH ID:TARGET`. */
export async function copyForRun(
  cli: Cli,
  guest: Guest,
  spec: string,
  options: CopyInOptions,
): Promise<Copied> {
  const { source, target } = parseCopy(spec);
  const to = await copyIn(cli, guest, source, target, options);
  return { from: await realpath(source), to };
}

/** Checked before a sandbox starts. @throws UsageError */
export async function requireCopies(specs: readonly string[]): Promise<void> {
  for (const spec of specs) await requireSource(parseCopy(spec).source);
}

function parseCopy(spec: string): { readonly source: string; readonly target: string } {
  const at = spec.lastIndexOf(':');
  const source = at > 0 ? spec.slice(0, at) : spec;
  return { source, target: (at > 0 && spec.slice(at + 1)) || '~' };
}

/** Checked before a sandbox is resumed. @throws UsageError */
export async function requireSource(path: string): Promise<void> {
  await readable(path, stat(path));
}

/** Copies into `target` if it is a directory, otherwise to that name. Returns the path in the guest. */
export async function copyIn(
  cli: Cli,
  guest: Guest,
  source: string,
  target: string,
  options: CopyInOptions,
): Promise<string> {
  const name = basename(resolve(source));
  const into = (await isDirectory(guest, target, options)) && !/(^|\/)\.$/.test(source);
  const to = into ? join(target, name) : target;
  await copyTree(cli, guest, source, to, options);
  return to;
}

async function isDirectory(guest: Guest, path: string, { user }: CopyInOptions): Promise<boolean> {
  if (path === '~' || path.endsWith('/')) return true;
  try {
    const entry = await guest.files.stat(path, user === undefined ? {} : { user });
    // A link to a directory counts as one, as it does for cp(1).
    if (entry.type !== 'symlink') return entry.type === 'directory';
    await guest.files.stat(`${path}/.`, user === undefined ? {} : { user });
    return true;
  } catch (error) {
    if (errorCode(error) === 'not_found' || errorCode(error) === 'invalid_request') return false;
    throw error;
  }
}

async function copyTree(
  cli: Cli,
  guest: Guest,
  source: string,
  target: string,
  options: CopyInOptions,
): Promise<void> {
  const plan = await planOf(source, target);
  const files = plan.filter(({ type }) => type === 'file');
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  const progress = new TransferProgress(cli, `Copy ${source}`, total);
  const as = options.user === undefined ? {} : { user: options.user };
  let succeeded = false;
  try {
    const directories = plan.filter(({ type }) => type === 'directory');
    for (const { to } of directories) {
      await guest.files.makeDirectory(to, as).catch((error: unknown) => {
        if (errorCode(error) !== 'already_exists') throw error;
      });
    }
    await someAtOnce(files, async ({ from, to, mode }) => {
      const content = progress.count(createReadStream(from));
      await guest.files.write(to, content, { mode, signal: cli.cancelled, ...as });
    });
    for (const { from, to } of plan.filter(({ type }) => type === 'symlink')) {
      await inGuest(guest, ['ln', '-sfT', '--', await readlink(from), absolute(to)], as);
    }
    // Last, and deepest first: the mode may close a directory to its owner.
    for (const { to, mode } of directories.reverse()) {
      if (mode === DEFAULT_DIRECTORY_MODE) continue;
      await inGuest(guest, ['chmod', mode.toString(8), '--', absolute(to)], as);
    }
    succeeded = true;
  } finally {
    progress.end(succeeded);
  }
}

/** The agent creates directories with this mode. */
const DEFAULT_DIRECTORY_MODE = 0o755;

/** Lists everything, parents first. @throws UsageError for what cannot be copied */
async function planOf(source: string, target: string): Promise<Planned[]> {
  const plan: Planned[] = [];
  const add = async (from: string, to: string, isRoot: boolean): Promise<void> => {
    if (plan.length >= ENTRIES_MAX) {
      throw new UsageError(`${source}: more than ${ENTRIES_MAX} files`, 'copy an archive instead');
    }
    // The named path itself may be a link; links below it are kept.
    const info = await readable(from, isRoot ? stat(from) : lstat(from));
    const entry = { from, to, mode: info.mode & 0o777, bytes: info.size };
    if (info.isFile()) plan.push({ type: 'file', ...entry });
    else if (info.isSymbolicLink()) plan.push({ type: 'symlink', ...entry });
    else if (info.isDirectory()) {
      plan.push({ type: 'directory', ...entry });
      for (const name of await readable(from, readdir(from)))
        await add(join(from, name), `${to}/${name}`, false);
    } else throw new UsageError(`${from}: neither a file nor a directory`);
  };
  await add(source, target, true);
  return plan;
}

/** @throws UsageError with the path and the fault */
async function readable<T>(path: string, reading: Promise<T>): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    const code = errorCode(error) ?? '';
    throw new UsageError(`${path}: ${UNREADABLE[code] ?? describeError(error)}`);
  }
}

const UNREADABLE: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  ENOTDIR: 'no such file or directory',
  EACCES: 'permission denied',
  ELOOP: 'too many levels of symbolic links',
};

/** Programs start in the home, so `~/…` becomes relative. */
const absolute = (path: string): string =>
  path === '~' ? '.' : path.startsWith('~/') ? path.slice(2) : path;

async function inGuest(
  guest: Guest,
  argv: readonly string[],
  as: { readonly user?: string },
): Promise<void> {
  const process = await guest.exec({ argv, stdin: false, ...as });
  process.stdout.resume();
  let said = '';
  process.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(0, 300);
  });
  const { exitCode } = await process.exit;
  if (exitCode !== 0) {
    throw new CopyError('guest_failed', `${argv.join(' ')}: ${said.trim() || 'failed'}`);
  }
}
