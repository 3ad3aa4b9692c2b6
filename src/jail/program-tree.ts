/**
 * What the VMM needs of the host's files, in a directory of its own: program, loader, libraries, modules,
 * firmware. It is copied once per version of them; a VM's empty root gets three bind mounts of it instead
 * of sixty, which takes 2 ms instead of 16, and shows nothing else of the host.
 *
 *     jail/<digest>/tree/{usr,lib,lib64}/…     by the same paths as on the host
 *                  /sources.json               what was copied; it is made anew when one of them changes
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import {
  chmod,
  copyFile,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../base/clock.ts';
import { errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { JailError } from './errors.ts';
import { requirePrivateDir } from './private-dir.ts';

/** Raise it when the layout changes. */
const VERSION = 1;
const FILES_MAX = 1_000;
const LDD_MS_MAX = 10_000;
const MS_PER_S = 1_000;
/** A month. */
const UNUSED_S = 30 * 24 * 3600;

export interface ProgramTree {
  readonly dir: string;
  /** Its top level: `usr`, `lib`, `lib64`. */
  readonly entries: readonly string[];
}

const sourcesSchema = z.object({
  files: z
    .array(z.object({ path: z.string().startsWith('/'), identity: z.string() }))
    .max(FILES_MAX),
});

/**
 * @param base private to this user; is made
 * @param files absolute paths; the libraries of those that are programs or modules are found
 * @throws JailError `jail_unavailable`, `jail_dir_unsafe`
 */
export async function prepareProgramTree(
  base: string,
  files: readonly string[],
): Promise<ProgramTree> {
  requirePrivateDir(base);
  const digest = createHash('sha256').update(`${VERSION}\n`);
  for (const path of files) digest.update(`${path} ${await identify(path)}\n`);
  const dir = join(base, digest.digest('hex').slice(0, 32));
  if (await isFresh(dir)) requirePrivateDir(dir);
  else await make(dir, files);
  const now = systemClock.wall() / MS_PER_S;
  await utimes(dir, now, now);
  await removeUnused(base, now);
  const tree = join(dir, 'tree');
  return { dir: tree, entries: await readdir(tree) };
}

/** Of versions that are gone, or whose making was interrupted. One that a process still starts VMs from is younger. */
async function removeUnused(base: string, now: number): Promise<void> {
  for (const name of await readdir(base)) {
    if (!/^[0-9a-f]{32}(\.\d+)?$/.test(name)) continue;
    const path = join(base, name);
    const { mtimeMs } = await stat(path);
    if (now - mtimeMs / MS_PER_S > UNUSED_S) await rm(path, { recursive: true, force: true });
  }
}

async function isFresh(dir: string): Promise<boolean> {
  try {
    const text = await readFile(join(dir, 'sources.json'), 'utf8');
    const sources = sourcesSchema.parse(JSON.parse(text));
    const fresh = await Promise.all(
      sources.files.map(async ({ path, identity }) => (await identify(path)) === identity),
    );
    return fresh.every(Boolean);
  } catch (error) {
    ignore(error, 'no tree yet, or of files that are gone: it is made');
    return false;
  }
}

async function make(dir: string, files: readonly string[]): Promise<void> {
  const temporary = `${dir}.${process.pid}`;
  try {
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { mode: 0o700 });
    const libraries = await Promise.all(files.map(librariesOf));
    const all = [...new Set([...files, ...libraries.flat()])].slice(0, FILES_MAX);
    const sources: z.infer<typeof sourcesSchema> = { files: [] };
    for (const path of all) {
      const to = join(temporary, 'tree', path);
      await mkdir(dirname(to), { recursive: true });
      sources.files.push({ path, identity: await identify(path) });
      await copyFile(path, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
      await chmod(to, 0o555);
    }
    await openToAll(join(temporary, 'tree'));
    await writeFile(join(temporary, 'sources.json'), JSON.stringify(sources));
    // A mount of the old one goes on working: it holds the files, not the names.
    await rm(dir, { recursive: true, force: true });
    await rename(temporary, dir);
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true });
    // Another process has made the same one.
    if (errorCode(cause) === 'ENOTEMPTY' && (await isFresh(dir))) return;
    throw new JailError('jail_unavailable', 'copy the VMM and its libraries for jails', { cause });
  }
}

/** Whatever the umask: the VMM is another user. */
async function openToAll(dir: string): Promise<void> {
  await chmod(dir, 0o755);
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) await openToAll(join(dir, entry.name));
  }
}

async function identify(path: string): Promise<string> {
  const found: Stats = await stat(path);
  return `${found.dev}:${found.ino}:${found.size}:${found.mtimeMs}`;
}

/** @returns none for what is no dynamic program, such as firmware */
async function librariesOf(path: string): Promise<string[]> {
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
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
    return bytesRead === 4 && buffer.toString('latin1') === ELF_MAGIC;
  } finally {
    await file.close();
  }
}
