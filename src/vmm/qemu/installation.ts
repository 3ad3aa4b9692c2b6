/** What QEMU there is on this host, found by running it. */
import { execFile } from 'node:child_process';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { VmmError } from '../errors.ts';

export interface QemuVersion {
  /** As found in PATH or given. */
  readonly binary: string;
  /** e.g. `7.2.22` */
  readonly version: string;
}

const RUN_MS_MAX = 5_000;
const OUTPUT_BYTES_MAX = 64 * 1024;
/** Oldest version with all that we use: that of Ubuntu 22.04. */
export const QEMU_MAJOR_MIN = 6;

/** @throws VmmError `vmm_missing` if it isn't there, can't be run or is too old */
export async function readQemuVersion(binary: string): Promise<QemuVersion> {
  const version = parseQemuVersion(await run(binary, '--version'));
  if (version === undefined) throw missing(binary, 'it does not name a QEMU version');
  if (Number.parseInt(version, 10) < QEMU_MAJOR_MIN) {
    throw missing(binary, `version ${version} is older than ${QEMU_MAJOR_MIN}.0`);
  }
  return { binary, version };
}

export function parseQemuVersion(output: string): string | undefined {
  return /^QEMU emulator version (\d+\.\d+(?:\.\d+)?)/.exec(output)?.[1];
}

/**
 * qboot starts a kernel 250 ms sooner than SeaBIOS in software emulation. QEMU itself tells in which
 * folders it looks for firmware.
 * @returns null if it isn't installed
 */
export async function findQboot(binary: string): Promise<string | null> {
  for (const folder of (await run(binary, '-L', 'help')).split('\n')) {
    if (!folder.startsWith('/')) continue;
    const path = join(folder, 'qboot.rom');
    try {
      await access(path);
      return path;
    } catch (error) {
      ignore(error, 'no qboot in this folder');
    }
  }
  return null;
}

function run(binary: string, ...args: string[]): Promise<string> {
  const options = {
    timeout: RUN_MS_MAX,
    killSignal: 'SIGKILL' as const,
    maxBuffer: OUTPUT_BYTES_MAX,
  };
  return new Promise((resolve, reject) => {
    execFile(binary, args, options, (error, stdout) => {
      if (error === null) resolve(stdout);
      else reject(missing(binary, error));
    });
  });
}

function missing(binary: string, cause: unknown): VmmError {
  return new VmmError('vmm_missing', `QEMU (${binary}) can't be used`, {
    cause: errorCode(cause) === 'ENOENT' ? 'it is not installed' : cause,
    remedy: 'install it with `apt-get install qemu-system-x86` or run `./neurovisor setup`',
  });
}
