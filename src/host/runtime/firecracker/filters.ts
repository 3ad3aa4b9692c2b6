/**
 * Our seccomp filters for Firecracker and its jailer, compiled into files of the cache that only this user can read.
 */
import { createHash, randomBytes } from 'node:crypto';
import { rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Home } from '../../../base/home.ts';
import { requirePrivateDir } from '../../../machine/jail/private-dir.ts';
import { type CompiledFilter, compileProfile } from '../../../machine/jail/seccomp/compile.ts';
import { filteredExec } from '../../../machine/jail/seccomp/filtered-exec.ts';
import { firecrackerFilter } from '../../../machine/jail/seccomp/firecracker-filter.ts';
import { invalid, type Mode } from '../../../machine/jail/seccomp/profile.ts';
import { readPolicy } from '../jail.ts';

type Cache = Pick<Home, 'cacheDir'>;

const FOR_DATA = 0o600;
const FOR_PROGRAMS = 0o700;
const LAUNCH = 'launch';
const DIGEST_CHARACTERS = 16;

/**
 * Writes our profile for `--seccomp-filter`. Returns its path.
 * @throws JailError `profile_invalid`, `jail_dir_unsafe`
 */
export async function writeFilter(cache: Cache, mode: Mode): Promise<string> {
  const profile = await readPolicy('firecracker-x86_64.json', mode);
  const bytes = firecrackerFilter(profile, 'x86_64');
  return await writeAnew(cache, `firecracker-threads-${mode}`, bytes, FOR_DATA);
}

/**
 * Our filter over Firecracker's own, `struct sock_filter[]`.
 * @throws JailError `profile_invalid`
 */
export async function launchFilter(mode: Mode): Promise<CompiledFilter> {
  const filter = (await readPolicy('firecracker-launch-x86_64.json', mode)).get(LAUNCH);
  if (filter === undefined) throw invalid(`no thread "${LAUNCH}"`);
  return compileProfile(filter, 'x86_64');
}

/**
 * Writes the program that starts the jailer with a filter: it refuses calls that neither jailer nor Firecracker ever
 * make, even where Firecracker's own filters would allow them. Returns its path.
 * @throws JailError as above
 */
export async function writeLauncher(cache: Cache, mode: Mode): Promise<string> {
  const bytes = filteredExec(await launchFilter(mode));
  return await writeAnew(cache, `firecracker-${LAUNCH}-${mode}`, bytes, FOR_PROGRAMS);
}

/**
 * The name contains the digest, since a daemon of another version may still use its own file. Written each time: it
 * takes 10 ms and guarantees the freshly compiled content.
 */
async function writeAnew({ cacheDir }: Cache, name: string, bytes: Uint8Array, permissions: number): Promise<string> {
  const dir = join(cacheDir, 'jail');
  requirePrivateDir(dir);
  const digest = createHash('sha256').update(bytes).digest('hex').slice(0, DIGEST_CHARACTERS);
  const path = join(dir, `${name}-${digest}`);
  const beside = `${path}.${randomBytes(8).toString('hex')}`;
  try {
    await writeFile(beside, bytes, { mode: permissions, flag: 'wx' });
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
  return path;
}
