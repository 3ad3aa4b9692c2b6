/**
 * Fetches the source of erofs-utils, pinned by its digest. Releases before 1.9.3 lose opaque directories when they
 * merge layers, and those of stable distributions can't merge them at all, so it is built from source. It comes from
 * /usr/src, or from the host's mirrors of Debian, whose newer releases have it as a source package.
 */
import { access, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describeError } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import { ImageError } from './errors.ts';
import { refreshPackageLists } from './host-packages.ts';
import { copyPinned } from './pinned-source.ts';
import type { Job } from './prepare.ts';
import { debianMirrors } from './rootfs/guest-mirrors.ts';
import { DEBIAN_KEYRING } from './rootfs/recipe.ts';
import { runTool, UnreachableError, whileUnreachable } from './tool.ts';

export const EROFS_VERSION = '1.9.4';
export const EROFS_SHA256 = '7d135aa2550326a5acf20f53c518aea5a8900015ce50700044e40f818c31dd80';
const EROFS_TARBALL = `erofs-utils_${EROFS_VERSION}.orig.tar.gz`;
const SOURCE_DIR = '/usr/src';
const BYTES_MAX = 4 * MIB;
/** Debian releases that have, or will have, this version. */
const SUITES = ['sid', 'forky'] as const;

/** @throws ImageError `source_invalid` if it is unavailable or altered; `tool_failed` if no server is reached; `cancelled` */
export async function fetchErofsSource(job: Job, to: string): Promise<void> {
  const placed = join(SOURCE_DIR, EROFS_TARBALL);
  const from = (await isThere(placed)) ? placed : await downloadErofsSource(job);
  await copyPinned({ from, sha256: EROFS_SHA256, bytesMax: BYTES_MAX }, to, { signal: job.signal });
}

/**
 * From the host's mirrors of Debian. Unverified.
 * @returns the path of the tarball
 * @throws ImageError `source_invalid`; `tool_failed` if no server is reached; `cancelled`
 */
export async function downloadErofsSource({
  scratchDir,
  signal,
  report,
}: Pick<Job, 'scratchDir' | 'signal' | 'report'>): Promise<string> {
  const mirrors = await debianMirrors();
  let cause: unknown = 'this host has no mirror of Debian';
  for (const suite of mirrors.length === 0 ? [] : SUITES) {
    try {
      return await whileUnreachable(
        () => downloadFrom(mirrors, suite, join(scratchDir, suite), signal),
        signal,
        (waitMs) => report(`the package server can't be reached; another try in ${waitMs / 1000} s`),
      );
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof UnreachableError) throw error;
      ignore(error, 'the next suite may have it');
      cause = error;
    }
  }
  throw new ImageError('source_invalid', `fetch the source of erofs-utils ${EROFS_VERSION}`, {
    cause: describeError(cause),
    remedy: `Place ${EROFS_TARBALL} in ${SOURCE_DIR}, with the SHA-256 ${EROFS_SHA256}.`,
  });
}

/** Uses separate package lists, so that the host's apt does not see another release. */
async function downloadFrom(
  mirrors: readonly string[],
  suite: string,
  dir: string,
  signal: AbortSignal,
): Promise<string> {
  for (const name of ['lists/partial', 'cache/archives/partial', 'source']) {
    await mkdir(join(dir, name), { recursive: true });
  }
  const list = join(dir, 'sources.list');
  const lines = mirrors.map((uri) => `deb-src [signed-by=${DEBIAN_KEYRING}] ${uri} ${suite} main\n`);
  await writeFile(list, lines.join(''));
  const options = [
    `Dir::Etc::sourcelist=${list}`,
    'Dir::Etc::sourceparts=-',
    `Dir::State::lists=${join(dir, 'lists')}`,
    `Dir::Cache=${join(dir, 'cache')}`,
    // Only this user has access to the directory.
    'APT::Sandbox::User=root',
  ].flatMap((option) => ['-o', option]);
  const cwd = join(dir, 'source');
  const apt = (args: readonly string[]): Promise<string> => runTool('apt-get', [...options, ...args], { signal, cwd });
  await refreshPackageLists(apt);
  await apt(['source', '--download-only', 'erofs-utils']);
  const names = await readdir(cwd);
  if (names.includes(EROFS_TARBALL)) return join(cwd, EROFS_TARBALL);
  throw new Error(`Debian ${suite} has ${names.find((name) => name.includes('.orig.')) ?? 'none'}`);
}

async function isThere(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    ignore(error, 'the source is fetched');
    return false;
  }
}
