/**
 * Copies files of a guest to this machine: `cp ID:PATH TARGET`.
 *
 * The guest lists its directories and is hostile: a name must be a single path component and occur once; links are
 * created last, and nothing is ever written through a link. So nothing is written outside the target.
 */
import { createWriteStream } from 'node:fs';
import { chmod, lstat, mkdir, rename, rm, stat, symlink } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { errorCode } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import type { FileEntry, Guest } from '../../guest/link.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { CopyError, ENTRIES_MAX, someAtOnce, TransferProgress } from './transfer.ts';

interface Planned {
  readonly entry: FileEntry;
  /** Path in the guest. */
  readonly from: string;
  /** Path on this machine. */
  readonly to: string;
}

export interface CopyOutOptions {
  readonly user?: string | undefined;
}

/** Copies into `target` if it is a directory, otherwise to that name. */
export async function copyOut(
  cli: Cli,
  guest: Guest,
  source: string,
  target: string,
  options: CopyOutOptions,
): Promise<void> {
  const as = options.user === undefined ? {} : { user: options.user };
  const root = await guest.files.stat(source, as);
  const wholeContent = /(^|\/)\.$/.test(source);
  const into = !wholeContent && (target.endsWith('/') || (await isDirectory(target)));
  const name = basename(root.path) || 'root';
  const to = resolve(into ? join(target, checkFileName(name)) : target);
  await mkdir(dirname(to), { recursive: true });
  const plan = await planOf(guest, { entry: root, from: source, to }, as);
  const files = plan.filter(({ entry }) => entry.type === 'file');
  const total = files.reduce((sum, { entry }) => sum + entry.bytes, 0);
  const progress = new TransferProgress(cli, `Copy ${source}`, total);
  let succeeded = false;
  try {
    const directories = plan.filter(({ entry }) => entry.type === 'directory');
    for (const one of directories) await makeDirectory(one.to, one === plan[0] && wholeContent);
    await someAtOnce(files, async ({ entry, from, to: path }) => {
      const content = await guest.files.read(from, { signal: cli.cancelled, ...as });
      await replaceFile(path, entry.mode, progress.count(content));
    });
    for (const one of plan) if (one.entry.type === 'symlink') await replaceLink(one);
    // Last, and deepest first: the mode may close a directory to its owner.
    for (const one of directories.reverse()) await chmod(one.to, one.entry.mode & 0o777);
    succeeded = true;
  } finally {
    progress.end(succeeded);
  }
}

/** Lists everything, parents first, level by level. */
async function planOf(
  guest: Guest,
  root: Planned,
  as: { readonly user?: string },
): Promise<readonly Planned[]> {
  const plan = [root];
  // The list grows during the walk.
  for (const { entry, from, to } of plan) {
    if (entry.type === 'other') throw new UsageError(`${from}: neither a file nor a directory`);
    if (entry.type !== 'directory') continue;
    const seen = new Set<string>();
    for (const child of await guest.files.list(from, as)) {
      const name = checkFileName(child.name);
      if (seen.has(name)) throw hostile(`the guest lists ${quoted(name)} twice in ${from}`);
      seen.add(name);
      if (plan.length >= ENTRIES_MAX) {
        throw new UsageError(
          `${root.from}: more than ${ENTRIES_MAX} files`,
          'copy an archive instead',
        );
      }
      plan.push({ entry: child, from: `${from}/${name}`, to: join(to, name) });
    }
  }
  return plan;
}

/** @returns the name, if it is one component of a path. @throws CopyError `hostile_name` */
export function checkFileName(name: string): string {
  const isPlain = name !== '' && name !== '.' && name !== '..' && !/[/\0]/.test(name);
  // Names that are not UTF-8 contain lone surrogates, which cannot be written back.
  if (isPlain && name.isWellFormed()) return name;
  throw hostile(`the guest lists a file named ${quoted(name)}`);
}

const quoted = (name: string): string => JSON.stringify(name.slice(0, 200));

function hostile(what: string): CopyError {
  return new CopyError('hostile_name', `${what}, which cannot be written here`, {
    remedy: 'rename it in the guest, or copy an archive of the directory',
  });
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Never follows a link: one left by an earlier copy could lead elsewhere. */
async function makeDirectory(path: string, mayBeLink: boolean): Promise<void> {
  const there = await lstat(path).catch((error: unknown) => {
    if (errorCode(error) !== 'ENOENT') throw error;
    return null;
  });
  if (there === null) await mkdir(path, { mode: 0o700 });
  else if (!there.isDirectory() && !(mayBeLink && (await isDirectory(path)))) {
    throw new CopyError('in_the_way', `${path} exists and is not a directory`, {
      remedy: 'remove it, or choose another target',
    });
  }
}

/** Writes all or nothing; an existing link is replaced, not followed. */
async function replaceFile(
  path: string,
  mode: number,
  content: AsyncIterable<Uint8Array>,
): Promise<void> {
  const part = join(dirname(path), `.${newSandboxId()}.part`);
  try {
    await pipeline(content, createWriteStream(part, { flags: 'wx', mode: 0o600 }));
    await chmod(part, mode & 0o777);
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}

async function replaceLink({ entry, to }: Planned): Promise<void> {
  const part = join(dirname(to), `.${newSandboxId()}.part`);
  await symlink(entry.symlinkTarget ?? '', part);
  try {
    await rename(part, to);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}
