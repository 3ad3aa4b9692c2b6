/**
 * Brings the changes of a project back from a guest in two steps, so that exactly what a person reviews is written.
 *
 *     reviewChanges   guest ──► staging directory   changes by content, conflicts, refused paths
 *     applyChanges    staging directory ──► project
 *
 * The guest is hostile. Names are single components that it lists once, ignored paths such as `.git` never come back,
 * links must stay inside, and `CopyTarget` resolves no link of this machine on the way to a path.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CodedError, describeError, errorCode } from '../../base/errors.ts';
import { GIB } from '../../base/units.ts';
import type { Guest } from '../../machine/guest/link.ts';
import { sumsInGuest } from './checksums.ts';
import { type Content, isSame } from './content.ts';
import { CopyTarget } from './copy-target.ts';
import type { SentProject } from './project.ts';
import { CopyError, fileOptions, someAtOnce, type TransferOptions, TransferProgress, writeError } from './transfer.ts';
import { type GuestEntry, listThere } from './tree-there.ts';

export interface Change {
  readonly kind: 'created' | 'changed' | 'deleted';
  /** Below the project. */
  readonly path: string;
  /** As it was sent; `null` if it did not exist. */
  readonly before: Content | null;
  /** As it is in the guest; `null` if it was deleted. */
  readonly after: Content | null;
  /** File with the content; `null` if it is not a file. */
  readonly staged: string | null;
  /** Why this machine's file is kept; `null` without a conflict. */
  readonly conflict: string | null;
}

/** A path of the guest that can't come back. */
export interface Refused {
  readonly path: string;
  readonly reason: string;
}

export interface Review {
  readonly changes: readonly Change[];
  readonly refused: readonly Refused[];
}

/** Limit of changed and new files together. */
export const CHANGED_BYTES_MAX = GIB;

const CHANGED_HERE = 'it changed on this machine since it was sent';

/**
 * @param staging an empty directory, which the caller removes
 * @param skip returns true for paths that, with everything below them, do not belong to the project, for example other
 * copied files
 * @throws CopyError, GuestError `not_found` if the directory is gone
 */
export async function reviewChanges(
  guest: Guest,
  project: SentProject,
  staging: string,
  options: TransferOptions & { readonly skip?: (path: string) => boolean },
): Promise<Review> {
  const as = fileOptions(options);
  const { skip = () => false } = options;
  const refused: Refused[] = [];
  const refuse = (path: string, reason: string): void => void refused.push({ path, reason });
  const root = { entry: await guest.files.stat(project.to, as), from: project.to, path: '' };
  if (root.entry.type !== 'directory') {
    throw new CopyError('invalid_source', `${project.to}: no longer a directory in the guest`);
  }
  const all = await listThere(guest, root, as, {
    skip: (path, isDirectory) => skip(path) || project.rules.ignores(path, isDirectory),
    onOther: ({ path }) => refuse(path, 'neither a file nor a directory'),
  });
  const listed = project.rules.withoutEmptyPassages(all, ({ entry }) => entry.type === 'directory');
  const there = new Map<string, { content: Content; staged: string | null }>();
  const files: GuestEntry[] = [];
  for (const one of listed) {
    const { entry, path } = one;
    const mode = entry.mode & 0o777;
    if (path === '') continue;
    if (entry.type === 'file') files.push(one);
    else if (entry.type === 'directory') {
      there.set(path, { content: { type: 'directory', mode }, staged: null });
    } else {
      const target = entry.symlinkTarget ?? '';
      const content: Content = { type: 'symlink', target };
      const isSent = isSame(project.contents.get(path) ?? null, content);
      if (isSent || staysInside(path, target)) there.set(path, { content, staged: null });
      else refuse(path, `a link that leads out of the directory: ${target.slice(0, 200)}`);
    }
  }
  const changed = await changedFiles(guest, project, files, options);
  for (const { entry, path } of files) {
    const sent = project.contents.get(path);
    if (changed.has(path) || sent?.type !== 'file') continue;
    there.set(path, { content: { ...sent, mode: entry.mode & 0o777 }, staged: null });
  }
  await stage(guest, [...changed.values()], staging, options, (path, content, staged) => {
    there.set(path, { content, staged });
  });
  const refusedPaths = new Set(refused.map(({ path }) => path));
  const isRefused = (path: string): boolean => path !== '.' && (refusedPaths.has(path) || isRefused(dirname(path)));
  // Includes everything below it: files sent there before are not deleted, only ignored.
  const isSkipped = (path: string): boolean => path !== '.' && (skip(path) || isSkipped(dirname(path)));
  const paths = new Set([...project.contents.keys(), ...there.keys()]);
  const conflicts = new ConflictFinder(project);
  const changes: Change[] = [];
  for (const path of [...paths].sort()) {
    if (isRefused(path) || isSkipped(path)) continue;
    const before = project.contents.get(path) ?? null;
    const { content: after, staged } = there.get(path) ?? { content: null, staged: null };
    if (isSame(before, after)) continue;
    const conflict = await conflicts.find({ path, before, after });
    if (conflict === 'same') continue;
    const kind = before === null ? 'created' : after === null ? 'deleted' : 'changed';
    changes.push({ kind, path, before, after, staged, conflict });
  }
  return { changes, refused };
}

type Compared = Pick<Change, 'path' | 'before' | 'after'>;

/** Compares the project with what was sent, change by change, parents first. */
class ConflictFinder {
  readonly #target: CopyTarget;
  /** Files and links that become directories, so nothing is below them here. */
  readonly #replaced = new Set<string>();

  constructor(project: Pick<SentProject, 'from'>) {
    this.#target = new CopyTarget(project.from);
  }

  /** `null` if the path is as it was sent; `same` if it is already as in the guest. Otherwise the reason to keep it. */
  async find({ path, before, after }: Compared): Promise<string | null> {
    if (this.#isReplaced(dirname(path))) return null;
    try {
      const here = await this.#target.contentOf(path);
      if (isSame(here, after)) return 'same';
      if (!isSame(here, before)) return CHANGED_HERE;
    } catch (error) {
      return describeError(error);
    }
    const isFile = before !== null && before.type !== 'directory';
    if (isFile && after?.type === 'directory') this.#replaced.add(path);
    return null;
  }

  #isReplaced(path: string): boolean {
    return path !== '.' && (this.#replaced.has(path) || this.#isReplaced(dirname(path)));
  }
}

/**
 * True if a link resolves inside the project whatever other links the guest creates: `..` only at its beginning, and at
 * most as many as its directory is deep.
 */
export function staysInside(path: string, target: string): boolean {
  if (target === '' || target.startsWith('/') || target.includes('\0')) return false;
  const components = target.split('/');
  const ups = components.findIndex((component) => component !== '..');
  const count = ups < 0 ? components.length : ups;
  return count <= path.split('/').length - 1 && !components.slice(count).includes('..');
}

/** New files, and those whose content may differ from what was sent. */
async function changedFiles(
  guest: Guest,
  project: SentProject,
  files: readonly GuestEntry[],
  options: TransferOptions,
): Promise<ReadonlyMap<string, GuestEntry>> {
  const sentAs = (path: string): Content | undefined => project.contents.get(path);
  const sameSize = files.filter(({ entry, path }) => {
    const sent = sentAs(path);
    return sent?.type === 'file' && sent.bytes === entry.bytes;
  });
  // A guest that lies about a sum only hides a change of its own.
  const paths = sameSize.map(({ path }) => path);
  const sums = await sumsInGuest(guest, project.to, paths, options);
  const unchanged = new Set(
    paths.filter((path) => {
      const sent = sentAs(path);
      return sent?.type === 'file' && sums.get(path) === sent.sha256;
    }),
  );
  return new Map(files.filter(({ path }) => !unchanged.has(path)).map((one) => [one.path, one]));
}

/** Downloads files to numbered names. */
async function stage(
  guest: Guest,
  files: readonly GuestEntry[],
  staging: string,
  options: TransferOptions,
  onFile: (path: string, content: Content, staged: string) => void,
): Promise<void> {
  const as = fileOptions(options);
  const total = files.reduce((sum, { entry }) => sum + entry.bytes, 0);
  const progress = new TransferProgress(options.onProgress, 'Compare changes', total);
  let succeeded = false;
  try {
    const numbered = files.map((one, at) => ({ ...one, staged: join(staging, `${at}`) }));
    await someAtOnce(numbered, async ({ entry, from, path, staged }) => {
      const hash = createHash('sha256');
      let bytes = 0;
      const file = await open(staged, 'wx', 0o600);
      try {
        for await (const chunk of progress.count(await guest.files.read(from, as))) {
          if (progress.bytes > CHANGED_BYTES_MAX) throw tooLarge();
          hash.update(chunk);
          bytes += chunk.length;
          await file.writeFile(chunk);
        }
      } catch (error) {
        throw writeError(error, dirname(staging));
      } finally {
        await file.close();
      }
      const mode = entry.mode & 0o777;
      onFile(path, { type: 'file', mode, bytes, sha256: hash.digest('hex') }, staged);
    });
    succeeded = true;
  } finally {
    progress.end(succeeded);
  }
}

const tooLarge = (): CopyError =>
  new CopyError('too_large', `more than ${CHANGED_BYTES_MAX / GIB} GiB of changed files`, {
    remedy: 'bring large results back with --out',
  });

export interface Applied {
  readonly path: string;
  /** Why it was not written; `null` if it was. */
  readonly kept: string | null;
}

/**
 * Writes the changes without a conflict. Each is checked again, since the project may have changed during the review. A
 * failure stops no other change.
 */
export async function applyChanges(
  project: Pick<SentProject, 'from'>,
  { changes }: Pick<Review, 'changes'>,
): Promise<readonly Applied[]> {
  const target = new CopyTarget(project.from);
  const kept = new Map<string, string | null>();
  const attempt = async (change: Change, write: () => Promise<void>): Promise<void> => {
    if (kept.get(change.path)) return;
    try {
      await write();
      kept.set(change.path, null);
    } catch (error) {
      kept.set(change.path, reasonOf(change.path, error));
    }
  };
  const conflicts = new ConflictFinder(project);
  const check = async (change: Change): Promise<void> => {
    const conflict = change.conflict ?? (await conflicts.find(change));
    if (conflict !== null && conflict !== 'same') kept.set(change.path, conflict);
  };
  for (const change of changes) await check(change);
  // Deepest first: a directory is removed when it is empty. Entries that change their type are removed to make room.
  for (const change of changes.toReversed()) {
    const { before, after, path } = change;
    if (before === null || before.type === after?.type) continue;
    await check(change);
    await attempt(change, async () => {
      try {
        await target.remove(path, before.type === 'directory');
      } catch (error) {
        // A directory stays for its ignored files, or for a file with a conflict, which is reported.
        if (after !== null || errorCode(error) !== 'ENOTEMPTY') throw error;
      }
    });
  }
  for (const change of changes) {
    const { before, after, path, staged } = change;
    if (after === null) continue;
    // Large files may have taken minutes since the first check. Entries that change their type are already removed.
    if (before === null || before.type === after.type) await check(change);
    await attempt(change, async () => {
      if (after.type === 'file') {
        if (staged === null) await target.setFileMode(path, after.mode);
        else await target.writeFile(path, after.mode, () => createReadStream(staged));
      } else if (after.type === 'symlink') await target.makeLink(path, after.target);
      // Open to its owner, who writes into it next; the umask decides about others.
      else await target.makeDirectory(path, after.mode | 0o700);
    });
  }
  return changes.map(({ path }) => ({ path, kept: kept.get(path) ?? null }));
}

function reasonOf(path: string, error: unknown): string {
  const known = writeError(error, path);
  if (known instanceof CodedError) return known.message;
  if (errorCode(error) === 'ENOENT') return 'its directory is gone on this machine';
  if (errorCode(error) === 'ENOTEMPTY') return 'the directory here is not empty';
  return describeError(error);
}
