/** Lists the files of a guest for a copy. The guest's answers are hostile. */
import { join } from 'node:path';
import type { FileEntry, GuestReader } from '../../machine/guest/link.ts';
import { CopyError, DEPTH_MAX, ENTRIES_MAX, type FileAccess } from './transfer.ts';

export interface GuestEntry {
  readonly entry: FileEntry;
  readonly from: string;
  /** Path below the root, of single components; `''` is the root itself. */
  readonly path: string;
}

export interface ListOptions {
  /** Returns true to omit an entry with everything below it. */
  readonly skip?: (path: string, isDirectory: boolean) => boolean;
  /** Called for a socket, pipe or device, which are refused by default. */
  readonly onOther?: (one: GuestEntry) => void;
}

/** Lists everything, parents first, level by level. @throws CopyError `hostile_name`, `invalid_source` */
export async function listThere(
  guest: Pick<GuestReader, 'files'>,
  root: GuestEntry,
  as: FileAccess,
  { skip = () => false, onOther = refuse }: ListOptions = {},
): Promise<readonly GuestEntry[]> {
  const plan: GuestEntry[] = [];
  let listed = 0;
  const add = (one: GuestEntry): void => {
    listed += 1;
    if (listed > ENTRIES_MAX) throw tooMany(root.from, `${ENTRIES_MAX} files`);
    if (one.entry.type === 'other') onOther(one);
    else plan.push(one);
  };
  add(root);
  // The list grows during the walk.
  for (const { entry, from, path } of plan) {
    if (entry.type !== 'directory') continue;
    const depth = path === '' ? 0 : path.split('/').length;
    if (depth > DEPTH_MAX) throw tooMany(root.from, `${DEPTH_MAX} directories in each other`);
    const seen = new Set<string>();
    for (const child of await guest.files.list(from, as)) {
      const name = checkFileName(child.name);
      if (seen.has(name)) throw hostile(`the guest lists ${quoted(name)} twice in ${from}`);
      seen.add(name);
      const below = join(path, name);
      if (skip(below, child.type === 'directory')) continue;
      add({ entry: child, from: `${from}/${name}`, path: below });
    }
  }
  return plan;
}

const tooMany = (from: string, what: string): CopyError =>
  new CopyError('invalid_source', `${from}: more than ${what}`, { remedy: 'copy an archive instead' });

function refuse({ from }: GuestEntry): void {
  throw new CopyError('invalid_source', `${from}: neither a file nor a directory`);
}

/** @returns the name, if it is one component of a path. @throws CopyError `hostile_name` */
export function checkFileName(name: string): string {
  const isPlain = name !== '' && name !== '.' && name !== '..' && !/[/\0]/.test(name);
  // Names that are not UTF-8 contain lone surrogates, which can't be written back.
  if (isPlain && name.isWellFormed()) return name;
  throw hostile(`the guest lists a file named ${quoted(name)}`);
}

export const quoted = (name: string): string => JSON.stringify(name.slice(0, 200));

function hostile(what: string): CopyError {
  return new CopyError('hostile_name', `${what}, which cannot be written here`, {
    remedy: 'rename it in the guest, or copy an archive of the directory',
  });
}
