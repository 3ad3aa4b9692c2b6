/** Lists the files of this machine for a copy. */
import { lstat, readdir, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CodedError, describeError, errorCode } from '../../base/errors.ts';
import { GIB } from '../../base/units.ts';
import type { ArchiveMember } from './archive.ts';
import type { IgnoreRules } from './ignored.ts';
import { CopyError, DEPTH_MAX, ENTRIES_MAX } from './transfer.ts';

export interface LocalEntry extends ArchiveMember {
  readonly from: string;
}

const PROJECT_BYTES_MAX = GIB;

/** Checks that a source exists. Call before a sandbox is started or resumed. @throws CopyError `invalid_source` */
export async function requireSource(path: string): Promise<void> {
  await readable(path, stat(path));
}

/**
 * Lists everything, parents first; the source itself has the path `''`.
 * @param rules of a project: ignored files, and sockets and devices, are omitted. `null` to list everything
 * @throws CopyError `invalid_source`
 */
export async function listHere(source: string, rules: IgnoreRules | null): Promise<readonly LocalEntry[]> {
  const entries: LocalEntry[] = [];
  let total = 0;
  const add = async (from: string, path: string): Promise<void> => {
    // The named path itself may be a link; links below it are kept.
    const info = await readable(from, path === '' ? stat(from) : lstat(from));
    if (path !== '' && rules?.ignores(path, info.isDirectory()) === true) return;
    if (entries.length >= ENTRIES_MAX) throw tooMany(source, rules);
    const entry = { from, path, mode: info.mode & 0o777, bytes: info.size };
    if (info.isFile()) {
      total += info.size;
      if (rules !== null && total > PROJECT_BYTES_MAX) throw tooLarge(source);
      entries.push({ type: 'file', ...entry });
    } else if (info.isSymbolicLink()) {
      const target = await readable(from, readlink(from));
      entries.push({ type: 'symlink', ...entry, target });
    } else if (info.isDirectory()) {
      if (rules !== null && path.split('/').length > DEPTH_MAX) {
        throw invalid(`${source}: more than ${DEPTH_MAX} directories in each other`, NARROWER);
      }
      entries.push({ type: 'directory', ...entry });
      await rules?.enter(source, path);
      for (const name of (await readable(from, readdir(from))).sort()) {
        await add(join(from, name), path === '' ? name : `${path}/${name}`);
      }
    } else if (rules === null) throw invalid(`${from}: neither a file nor a directory`);
  };
  await add(source, '');
  return rules?.withoutEmptyPassages(entries, ({ type }) => type === 'directory') ?? entries;
}

const invalid = (message: string, remedy?: string): CopyError => new CopyError('invalid_source', message, { remedy });

function tooMany(source: string, rules: IgnoreRules | null): CopyError {
  const remedy = rules === null ? 'copy an archive instead' : NARROWER;
  return invalid(`${source}: more than ${ENTRIES_MAX} files`, remedy);
}

const NARROWER = 'list what it does not need in its .gitignore or .dockerignore';

const tooLarge = (source: string): CopyError =>
  invalid(
    `${source}: more than ${PROJECT_BYTES_MAX / GIB} GiB of files`,
    `${NARROWER}, and bring large files in with --copy`,
  );

/** @throws CopyError `invalid_source` with the path and the fault */
async function readable<T>(path: string, reading: Promise<T>): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    throw readError(path, error);
  }
}

export function readError(path: string, error: unknown): Error {
  if (error instanceof CodedError) return error;
  const code = errorCode(error) ?? '';
  return invalid(`${path}: ${UNREADABLE[code] ?? describeError(error)}`);
}

const UNREADABLE: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  ENOTDIR: 'no such file or directory',
  EACCES: 'permission denied',
  ELOOP: 'too many levels of symbolic links',
};
