/** What Firecracker there is on this host, found by running it. */
import { execFile } from 'node:child_process';
import { errorCode } from '../../base/errors.ts';
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
 * @param allowOlder than the floor; for tests
 * @throws VmmError `vmm_missing` if it isn't there, can't be run or must not be used
 */
export async function readFirecrackerVersion(
  binary: string,
  allowOlder = false,
): Promise<FirecrackerVersion> {
  return readVersion(binary, 'Firecracker', allowOlder);
}

/** The same of the jailer. */
export async function readJailerVersion(
  binary: string,
  allowOlder = false,
): Promise<FirecrackerVersion> {
  return readVersion(binary, 'Jailer', allowOlder);
}

async function readVersion(
  binary: string,
  program: 'Firecracker' | 'Jailer',
  allowOlder: boolean,
): Promise<FirecrackerVersion> {
  const version = parseVersion(await run(binary, program), program);
  if (version === undefined) throw missing(binary, program, 'it does not name a version');
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
    remedy: `install Firecracker ${VERSION_FLOOR} or newer (docs/firecracker.md), or use QEMU`,
  });
}
