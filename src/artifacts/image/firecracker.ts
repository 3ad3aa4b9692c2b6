/**
 * Installs Firecracker and its jailer into the cache, from a release archive or a directory, pinned by digest.
 *
 *     copy or download ─► SHA-256 ─► the two programs, and nothing else ─► `--version` ─► cache/firecracker/<key>/
 *
 * Nothing is unpacked or run before its digest was compared. A release is laid out as
 * `release-vX.Y.Z-x86_64/{firecracker,jailer}-vX.Y.Z-x86_64`.
 */
import { chmod, readdir, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import { ImageError } from './errors.ts';
import { copyPinned, isUrl } from './pinned-source.ts';
import { type Job, type PrepareContext, prepareArtifact } from './prepare.ts';
import { extractFile, listArchive } from './release-archive.ts';
import { digestBytes } from './verify.ts';

const KIND = 'firecracker';
const RECIPE_VERSION = 1;
const PROGRAMS = ['firecracker', 'jailer'] as const;
type Program = (typeof PROGRAMS)[number];

const ARCHIVE_BYTES_MAX = 256 * MIB;
/** A release build has 3 MiB. */
const PROGRAM_BYTES_MAX = 128 * MIB;
const SPACE_BYTES = ARCHIVE_BYTES_MAX + 2 * PROGRAM_BYTES_MAX;
const MODE = 0o755;

export interface FirecrackerSource {
  /** Release archive, as a path or http(s) URL; or a directory with both programs. */
  readonly from: string;
  /** Hexadecimal: one for the archive; or those of firecracker and jailer in the directory. */
  readonly digests: readonly string[];
}

const detailsSchema = z.object({ version: z.string(), source: z.string() });
export type FirecrackerDetails = z.infer<typeof detailsSchema>;

export interface InstalledPaths {
  readonly firecracker: string;
  readonly jailer: string;
}

/**
 * Installs it unless it is already installed. Keeps the previous one: a running daemon starts VMs from it.
 * @param check runs the programs, whose digests were verified, and returns their version
 * @throws ImageError; errors of `check`
 */
export async function prepareFirecracker(
  context: PrepareContext,
  source: FirecrackerSource,
  check: (programs: InstalledPaths) => Promise<string>,
): Promise<InstalledPaths & FirecrackerDetails> {
  const artifact = await prepareArtifact(context, {
    kind: KIND,
    title: 'Install Firecracker',
    key: digestBytes(`${KIND} ${RECIPE_VERSION}`, ...source.digests),
    files: PROGRAMS,
    spaceBytes: SPACE_BYTES,
    details: detailsSchema,
    build: async (job) => {
      await fetchPrograms(job, source);
      // Set explicitly, since the umask restricts the mode of new files.
      for (const path of Object.values(pathsIn(job.outDir))) await chmod(path, MODE);
      return { version: await check(pathsIn(job.outDir)), source: source.from };
    },
  });
  // Makes it the newest, which is the one found, even if it was installed before.
  const now = new Date(systemClock.wall());
  await utimes(artifact.dir, now, now);
  return { ...pathsIn(artifact.dir), ...artifact.details };
}

/** The one installed last; `null` if this cache has none. */
export async function findInstalledFirecracker(cacheDir: string): Promise<InstalledPaths | null> {
  const dir = join(cacheDir, KIND);
  try {
    const names = (await readdir(dir)).filter((name) => /^[0-9a-f]{64}$/.test(name));
    const found = await Promise.all(names.map(async (name) => ({ name, ms: (await stat(join(dir, name))).mtimeMs })));
    const [newest] = found.sort((a, b) => b.ms - a.ms);
    return newest === undefined ? null : pathsIn(join(dir, newest.name));
  } catch (error) {
    ignore(error, 'nothing is installed');
    return null;
  }
}

const pathsIn = (dir: string): InstalledPaths => ({
  firecracker: join(dir, 'firecracker'),
  jailer: join(dir, 'jailer'),
});

async function fetchPrograms(job: Job, source: FirecrackerSource): Promise<void> {
  const { from, digests } = source;
  const isDirectory = !isUrl(from) && (await isDirectoryAt(from));
  const [first = '', second] = digests;
  if (isDirectory) {
    if (second === undefined) {
      throw new ImageError('source_invalid', `install ${from}: a directory needs two digests`, {
        remedy: 'Name the SHA-256 of firecracker and of jailer: --sha256 DIGEST,DIGEST.',
      });
    }
    await copyBoth(job, from, [first, second]);
    return;
  }
  if (second !== undefined) {
    throw new ImageError('source_invalid', `install ${from}: an archive needs one digest`, {
      remedy: 'Name the SHA-256 of the archive: --sha256 DIGEST.',
    });
  }
  await unpackBoth(job, from, first);
}

async function isDirectoryAt(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    const isMissing = errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR';
    const how = isMissing ? ': it does not exist' : '';
    throw new ImageError('source_invalid', `read ${path}${how}`, { cause: error });
  }
}

async function copyBoth({ outDir, signal }: Job, from: string, digests: readonly [string, string]): Promise<void> {
  const files = await readdir(from).catch((cause: unknown) => {
    throw new ImageError('source_invalid', `read ${from}`, { cause });
  });
  const names = pickPrograms(files, from);
  for (const [index, program] of PROGRAMS.entries()) {
    const path = join(from, names[program]);
    const pin = { from: path, sha256: digests[index] ?? '', bytesMax: PROGRAM_BYTES_MAX };
    await copyPinned(pin, join(outDir, program), { signal, mode: MODE });
  }
}

async function unpackBoth(job: Job, from: string, sha256: string): Promise<void> {
  const { scratchDir, outDir, signal, report } = job;
  const archive = join(scratchDir, 'release.tgz');
  const mb = (bytes: number): number => Math.round(bytes / 1e6);
  await copyPinned({ from, sha256, bytesMax: ARCHIVE_BYTES_MAX }, archive, {
    signal,
    onBytes: (bytes, total) => {
      const of = total === null ? '' : ` / ${mb(total)}`;
      report(`${mb(bytes)}${of} MB`, total === null ? undefined : bytes / total);
    },
  });
  report('unpack');
  const names = pickPrograms(await listArchive(archive, signal), from);
  for (const program of PROGRAMS) {
    const options = { mode: MODE, bytesMax: PROGRAM_BYTES_MAX, signal };
    await extractFile(archive, names[program], join(outDir, program), options);
  }
}

/** At most one directory deep; the version may be part of the name. */
const PROGRAM_NAME = /^(?:\.\/)?(?:[\w-][\w.-]*\/)?(firecracker|jailer)(?:-v\d+\.\d+\.\d+-x86_64)?$/;

/** @throws ImageError `source_invalid` if one is missing or there are several */
function pickPrograms(names: readonly string[], from: string): Readonly<Record<Program, string>> {
  const pick = (program: Program): string => {
    const found = [...new Set(names.filter((name) => PROGRAM_NAME.exec(name)?.[1] === program))];
    const [only] = found;
    if (only !== undefined && found.length === 1) return only;
    throw new ImageError('source_invalid', `install ${from}`, {
      cause: only === undefined ? `it has no ${program} for x86_64` : `it has several: ${found.slice(0, 4).join(', ')}`,
      remedy: 'Use a release archive of Firecracker: firecracker-vVERSION-x86_64.tgz.',
    });
  };
  return { firecracker: pick('firecracker'), jailer: pick('jailer') };
}
