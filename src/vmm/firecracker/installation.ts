/** The Firecracker of this host, found by running it. */
import { execFile } from 'node:child_process';
import { access, constants, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { searchPath } from '../../base/search-path.ts';
import { VmmError } from '../errors.ts';
import {
  type FirecrackerVersion,
  parseVersion,
  VERSION_FLOOR,
  versionProblem,
} from './versions.ts';

const RUN_MS_MAX = 5_000;
const OUTPUT_BYTES_MAX = 64 * 1024;

/**
 * @param allowOlder accept versions below the floor; for tests
 * @throws VmmError `vmm_missing` if it is missing, can't be run or must not be used
 */
export async function readFirecrackerVersion(
  binary: string,
  allowOlder = false,
): Promise<FirecrackerVersion> {
  return readVersion(binary, 'Firecracker', allowOlder);
}

/** The same for the jailer. */
export async function readJailerVersion(
  binary: string,
  allowOlder = false,
): Promise<FirecrackerVersion> {
  return readVersion(binary, 'Jailer', allowOlder);
}

/**
 * @param binary a name in PATH, or a path
 * @returns its absolute path without symbolic links
 * @throws VmmError `vmm_missing`
 */
export async function findBinary(binary: string): Promise<string> {
  const folders = binary.includes('/') ? [''] : searchPath(process.env['PATH']).split(':');
  for (const folder of folders) {
    try {
      const path = await realpath(folder === '' ? binary : join(folder, binary));
      await access(path, constants.X_OK);
      return path;
    } catch (error) {
      ignore(error, 'not in this folder');
    }
  }
  throw missing(binary, 'Firecracker', 'it is not installed');
}

async function readVersion(
  binary: string,
  program: 'Firecracker' | 'Jailer',
  allowOlder: boolean,
): Promise<FirecrackerVersion> {
  const version = parseVersion(await run(binary, program), program);
  if (version === undefined) throw missing(binary, program, 'its output has no version');
  const problem = versionProblem(version, allowOlder);
  if (problem !== undefined) throw missing(binary, program, problem);
  return version;
}

function run(binary: string, program: string): Promise<string> {
  const options = {
    timeout: RUN_MS_MAX,
    killSignal: 'SIGKILL' as const,
    maxBuffer: OUTPUT_BYTES_MAX,
    env: {},
  };
  return new Promise((resolve, reject) => {
    execFile(binary, ['--version'], options, (error, stdout) => {
      if (error === null) resolve(stdout);
      else reject(missing(binary, program, error));
    });
  });
}

function missing(binary: string, program: string, cause: unknown): VmmError {
  return new VmmError('vmm_missing', `${program} (${binary}) can't be used`, {
    cause: errorCode(cause) === 'ENOENT' ? 'it is not installed' : cause,
    remedy: `Install Firecracker ${VERSION_FLOOR} or newer (docs/firecracker.md), or use QEMU.`,
  });
}
