/**
 * Copies files of a guest to this machine.
 *
 * The guest's answers about its files are hostile. The name at the top comes from the caller, never from the guest; a
 * listed name must be a single path component and occur once (`listThere`); links are created last; and no path below
 * the target is resolved through a link (`CopyTarget`). So nothing is written outside the target.
 */
import { lstat, mkdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { ifThere } from '../../base/errors.ts';
import type { FileEntry, GuestReader } from '../../machine/guest/link.ts';
import { CopyTarget } from './copy-target.ts';
import { CopyError, fileOptions, someAtOnce, type TransferOptions, TransferProgress, writeError } from './transfer.ts';
import { listThere, quoted } from './tree-there.ts';

export interface Received {
  /** Absolute path on this machine. */
  readonly path: string;
  readonly files: number;
  readonly bytes: number;
}

/** Copies into `target` if it is a directory, otherwise to that name. @throws CopyError, GuestError */
export async function copyOut(
  guest: Pick<GuestReader, 'files'>,
  source: string,
  target: string,
  options: TransferOptions = {},
): Promise<Received> {
  try {
    return await receive(guest, source, target, options);
  } catch (error) {
    throw writeError(error, target);
  }
}

async function receive(
  guest: Pick<GuestReader, 'files'>,
  source: string,
  target: string,
  options: TransferOptions,
): Promise<Received> {
  const as = fileOptions(options);
  const root = await guest.files.stat(source, as);
  if (root.type === 'symlink') throw rootLink(source, root);
  const wholeContent = /(^|\/)\.$/.test(source);
  const into = (await isDirectory(target)) && !wholeContent;
  const to = resolve(into ? join(target, nameOf(source)) : target);
  await mkdir(dirname(to), { recursive: true });
  const plan = (await listThere(guest, { entry: root, from: source, path: '' }, as)).map(({ entry, from, path }) => ({
    entry,
    from,
    to: join(basename(to), path),
  }));
  const files = plan.filter(({ entry }) => entry.type === 'file');
  const total = files.reduce((sum, { entry }) => sum + entry.bytes, 0);
  const progress = new TransferProgress(options.onProgress, `Copy ${source}`, total);
  const below = new CopyTarget(dirname(to));
  let succeeded = false;
  try {
    // A directory of this machine keeps its mode: the guest could open it to all users, or close it.
    const made: typeof plan = [];
    for (const one of plan) {
      if (one.entry.type === 'directory' && (await below.makeDirectory(one.to))) made.push(one);
    }
    await someAtOnce(files, ({ entry, from, to: path }) =>
      below.writeFile(path, permissions(entry), async () => progress.count(await guest.files.read(from, as))),
    );
    for (const { entry, to: path } of plan) {
      if (entry.type === 'symlink') await below.makeLink(path, entry.symlinkTarget ?? '');
    }
    // Last, and deepest first: the mode may close a directory to its owner.
    for (const one of made.reverse()) await below.setMode(one.to, permissions(one.entry));
    succeeded = true;
    return { path: to, files: files.length, bytes: progress.bytes };
  } finally {
    progress.end(succeeded);
  }
}

/** As if a program here had created it: the guest opens nothing to others that the umask keeps closed. */
const permissions = ({ mode }: FileEntry): number => mode & 0o777 & ~process.umask();

const invalid = (message: string, remedy?: string): CopyError => new CopyError('invalid_source', message, { remedy });

/** Name of the source in a directory, independent of the guest. */
function nameOf(source: string): string {
  const name = basename(source);
  if (name === '') return 'root';
  if (name === '~') return 'home';
  if (name !== '.' && name !== '..') return name;
  throw invalid(`${source}: does not name a file`, 'use the path of the file or directory');
}

function rootLink(source: string, { symlinkTarget }: FileEntry): CopyError {
  const leads = symlinkTarget === null ? '' : ` to ${quoted(symlinkTarget)}`;
  return invalid(`${source}: a symbolic link${leads}`, 'copy the file or directory that it leads to');
}

/** Follows a link only if a slash after it asks for that: an earlier copy could have left one that leads anywhere. */
async function isDirectory(target: string): Promise<boolean> {
  const there = await ifThere(lstat(target));
  if (there?.isSymbolicLink()) {
    throw new CopyError('in_the_way', `${target} is a symbolic link`, {
      remedy: `use the path that it leads to, or ${target}/ to copy into that directory`,
    });
  }
  return there?.isDirectory() ?? target.endsWith('/');
}
