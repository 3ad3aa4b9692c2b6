/** Finds out whether a QEMU binary runs, and which version it is, by running it. */
import { execFile } from 'node:child_process';
import { errorCode } from '../../base/errors.ts';
import { VmmError } from '../errors.ts';

export interface QemuVersion {
  /** As found in PATH or given. */
  readonly binary: string;
  /** e.g. `7.2.22` */
  readonly version: string;
}

const VERSION_MS_MAX = 5_000;
const VERSION_OUTPUT_BYTES_MAX = 64 * 1024;
/** Oldest version with what we use, in Ubuntu 22.04 (`hpet=`, `memory-backend=`, vhost-user-vsock). */
export const QEMU_MAJOR_MIN = 6;

/** @throws VmmError `vmm_missing` if it isn't there, can't be run or is too old */
export function readQemuVersion(binary: string): Promise<QemuVersion> {
  return new Promise((resolve, reject) => {
    const options = {
      timeout: VERSION_MS_MAX,
      killSignal: 'SIGKILL' as const,
      maxBuffer: VERSION_OUTPUT_BYTES_MAX,
    };
    execFile(binary, ['--version'], options, (error, stdout) => {
      const version = parseQemuVersion(stdout);
      if (error !== null) reject(missing(binary, error));
      else if (version === undefined) reject(missing(binary, 'it does not name a QEMU version'));
      else if (Number.parseInt(version, 10) < QEMU_MAJOR_MIN) {
        reject(missing(binary, `version ${version} is older than ${QEMU_MAJOR_MIN}.0`));
      } else resolve({ binary, version });
    });
  });
}

export function parseQemuVersion(output: string): string | undefined {
  return /^QEMU emulator version (\d+\.\d+(?:\.\d+)?)/.exec(output)?.[1];
}

function missing(binary: string, cause: unknown): VmmError {
  const absent = errorCode(cause) === 'ENOENT';
  return new VmmError('vmm_missing', `QEMU (${binary}) can't be used`, {
    cause: absent ? 'it is not installed' : cause,
    remedy: 'install it with `apt-get install qemu-system-x86` or run `./neurovisor setup`',
  });
}
