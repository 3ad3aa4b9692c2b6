/**
 * A copy of the host files that the VMM needs: program, loader, libraries, modules, firmware. One copy per version.
 * A VM's empty root gets three bind mounts of it instead of sixty, which takes 2 ms instead of 16 and shows nothing
 * else of the host.
 *
 *     jail/<files>-<sources>/tree/{usr,lib,lib64}/…     the same paths as on the host
 *                           /sources.json               the copied files; a change of one makes a new tree
 *
 * Users of a tree hold a shared lock on its directory, so that no other process removes it.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats, statSync } from 'node:fs';
import { chmod, copyFile, mkdir, open, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { awaitOr, tryOr } from '../../base/ignore.ts';
import { tryLockExclusive, tryLockShared } from '../../sys/file.ts';
import { JailError } from './errors.ts';
import { requirePrivateDir } from './private-dir.ts';

/** Increment it when the layout changes. */
const VERSION = 2;
const FILES_MAX = 1_000;
const LDD_MS_MAX = 10_000;
const MS_PER_S = 1_000;
/** Age at which an unused tree is removed: a month. */
const UNUSED_S = 30 * 24 * 3600;
/** Age at which an outdated tree is removed: an hour, by when no start can still need it. */
const OUTDATED_S = 3600;
const DIGEST_CHARACTERS = 32;
const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** Names of trees, and of temporaries that a process creates or removes. */
const NAME = /^[0-9a-f]{32}-[0-9a-f]{32}(\.\d+){0,2}$|^[0-9a-f]{32}(\.\d+){0,2}$/;

export interface ProgramTree {
  readonly dir: string;
  /** Its top level: `usr`, `lib`, `lib64`. */
  readonly entries: readonly string[];
}

const sourcesSchema = z.object({
  files: z.array(z.object({ path: z.string().startsWith('/'), identity: z.string() })).max(FILES_MAX),
});
type Sources = z.infer<typeof sourcesSchema>;

interface Held extends ProgramTree {
  readonly sources: Sources;
  readonly fd: number;
}

/** The tree of one program, in the version that the host has now. */
export class ProgramTrees {
  readonly #base: string;
  readonly #files: readonly string[];
  #held: Held | undefined;
  #making: Promise<ProgramTree> | undefined;

  /**
   * @param base private to this user; created if missing
   * @param files absolute paths; the libraries of programs and modules are added
   */
  constructor(base: string, files: readonly string[]) {
    this.#base = base;
    this.#files = files;
  }

  /**
   * Call it before each start of a VM, so that an updated VMM is used at once. Stats each file, which takes less than a
   * millisecond.
   * @throws JailError `jail_unavailable`, `jail_dir_unsafe`
   */
  async current(): Promise<ProgramTree> {
    if (this.#held !== undefined && isCurrent(this.#held)) return this.#held;
    this.#making ??= this.#renew().finally(() => {
      this.#making = undefined;
    });
    return await this.#making;
  }

  async #renew(): Promise<ProgramTree> {
    const made = await hold(this.#base, this.#files);
    await this.close();
    this.#held = made;
    return made;
  }

  /** Call it after the last start. */
  async close(): Promise<void> {
    const held = this.#held;
    this.#held = undefined;
    if (held === undefined) return;
    // A starting VMM mounts it in a moment; until then the path must exist.
    await touch(dirname(held.dir));
    closeSync(held.fd);
  }
}

/** Whether the tree matches the host's files and still exists. */
function isCurrent({ sources, fd }: Held): boolean {
  return isUpToDate(sources) && fstatSync(fd).nlink > 0;
}

async function hold(base: string, files: readonly string[]): Promise<Held> {
  requirePrivateDir(base);
  try {
    const kind = digestOf(sourcesOf(files));
    const held = (await find(base, kind)) ?? (await make(base, kind, files));
    await touch(dirname(held.dir));
    await removeUnused(base);
    return held;
  } catch (cause) {
    if (cause instanceof JailError) throw cause;
    throw new JailError('jail_unavailable', 'could not copy the VMM and its libraries for jails', {
      cause,
      remedy: 'Reinstall the VMM if it is broken; restart NeuroVisor if its files have moved.',
    });
  }
}

async function touch(dir: string): Promise<void> {
  const now = systemClock.wall() / MS_PER_S;
  await awaitOr(undefined, 'the cache was emptied by hand', () => utimes(dir, now, now));
}

/** @param kind prefix of its name */
async function find(base: string, kind: string): Promise<Held | undefined> {
  for (const name of await readdir(base)) {
    if (!name.startsWith(`${kind}-`) || name.includes('.')) continue;
    requirePrivateDir(join(base, name));
    const held = await take(join(base, name));
    if (held === undefined) continue;
    if (isUpToDate(held.sources)) return held;
    closeSync(held.fd);
  }
  return undefined;
}

/** @returns undefined for a tree that is being removed or is incomplete */
async function take(dir: string): Promise<Held | undefined> {
  const fd = openSync(dir, DIRECTORY);
  const sources = tryLockShared(fd) ? readSources(dir) : undefined;
  if (sources === undefined) {
    closeSync(fd);
    return undefined;
  }
  const tree = join(dir, 'tree');
  return { dir: tree, entries: await readdir(tree), sources, fd };
}

/** @returns undefined for an incomplete tree */
function readSources(dir: string): Sources | undefined {
  return tryOr(undefined, 'the tree is being made or removed, or is not a tree', () =>
    sourcesSchema.parse(JSON.parse(readFileSync(join(dir, 'sources.json'), 'utf8'))),
  );
}

/** Removes unlocked trees that are outdated, long unused or incomplete. */
async function removeUnused(base: string): Promise<void> {
  for (const name of await readdir(base)) {
    if (!NAME.test(name)) continue;
    await awaitOr(undefined, 'another process removes it', () => removeIfUnused(join(base, name)));
  }
}

async function removeIfUnused(dir: string): Promise<void> {
  const ageS = systemClock.wall() / MS_PER_S - (await stat(dir)).mtimeMs / MS_PER_S;
  if (ageS <= OUTDATED_S) return;
  const fd = openSync(dir, DIRECTORY);
  try {
    if (!tryLockExclusive(fd)) return;
    const sources = readSources(dir);
    const isOutdated = sources !== undefined && !isUpToDate(sources);
    if (!isOutdated && ageS <= UNUSED_S) return;
    // Renamed first, so that no process finds half a tree.
    const going = temporaryName(dir.replace(/\..*$/, ''));
    await rename(dir, going);
    await rm(going, { recursive: true, force: true });
  } finally {
    closeSync(fd);
  }
}

function isUpToDate({ files }: Sources): boolean {
  return tryOr(false, 'a source file is gone', () => files.every(({ path, identity }) => identify(path) === identity));
}

let temporaries = 0;

function temporaryName(path: string): string {
  temporaries += 1;
  return `${path}.${process.pid}.${temporaries}`;
}

async function make(base: string, kind: string, files: readonly string[]): Promise<Held> {
  const temporary = temporaryName(join(base, kind));
  try {
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { mode: 0o700 });
    const libraries = await Promise.all(files.map(librariesOf));
    const all = [...new Set([...files, ...libraries.flat()])].slice(0, FILES_MAX);
    const sources = sourcesOf(all);
    for (const path of all) {
      const to = join(temporary, 'tree', path);
      await mkdir(dirname(to), { recursive: true });
      await copyFile(path, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
      await chmod(to, 0o555);
    }
    await openToAll(join(temporary, 'tree'));
    await writeFile(join(temporary, 'sources.json'), JSON.stringify(sources));
    const dir = join(base, `${kind}-${digestOf(sources)}`);
    try {
      await rename(temporary, dir);
    } catch (error) {
      // Another process made the same tree.
      if (errorCode(error) !== 'ENOTEMPTY' && errorCode(error) !== 'EEXIST') throw error;
    }
    requirePrivateDir(dir);
    const held = await take(dir);
    if (held === undefined) throw new Error(`${dir} is incomplete`);
    return held;
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

function sourcesOf(paths: readonly string[]): Sources {
  return { files: paths.map((path) => ({ path, identity: identify(path) })) };
}

function digestOf(sources: Sources): string {
  const hash = createHash('sha256').update(`${VERSION}\n${JSON.stringify(sources)}`);
  return hash.digest('hex').slice(0, DIGEST_CHARACTERS);
}

/** Independent of the umask: the VMM is another user. */
async function openToAll(dir: string): Promise<void> {
  await chmod(dir, 0o755);
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) await openToAll(join(dir, entry.name));
  }
}

function identify(path: string): string {
  const found: Stats = statSync(path);
  return `${found.dev}:${found.ino}:${found.size}:${found.mtimeMs}`;
}

/** @returns an empty list for a file without libraries, such as firmware */
export async function librariesOf(path: string): Promise<string[]> {
  if (!(await isElf(path))) return [];
  const listed = await new Promise<string>((resolve, reject) => {
    execFile('ldd', [path], { timeout: LDD_MS_MAX, env: { LC_ALL: 'C' } }, (error, stdout) => {
      if (error === null || /statically linked|not a dynamic/.test(stdout)) resolve(stdout);
      else reject(error);
    });
  });
  if (/not found/.test(listed)) throw new Error(`a library of ${path} is missing`);
  // `libc.so.6 => /lib/…/libc.so.6 (0x…)`, and the loader as `/lib64/ld-linux-x86-64.so.2 (0x…)`.
  return [...listed.matchAll(/(?:^|=>)\s*(\/\S+) \(0x/gm)].map((match) => match[1] ?? '');
}

const ELF_MAGIC = '\x7fELF';

async function isElf(path: string): Promise<boolean> {
  await using file = await open(path);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
  return bytesRead === 4 && buffer.toString('latin1') === ELF_MAGIC;
}
