/** Finds this host's QEMU by running it. */
import { execFile } from 'node:child_process';
import { access } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { errorCode } from '../../../base/errors.ts';
import { awaitOr } from '../../../base/ignore.ts';
import { VmmError } from '../errors.ts';

export interface QemuVersion {
  /** The name in PATH, or the given path. */
  readonly binary: string;
  /** For example `7.2.22`. */
  readonly version: string;
}

const RUN_MS_MAX = 5_000;
const OUTPUT_BYTES_MAX = 64 * 1024;
/** The oldest version with all features used here, from Ubuntu 22.04. */
const QEMU_MAJOR_MIN = 6;

/** @throws VmmError `vmm_missing` if it is missing, can't be run or is too old */
export async function readQemuVersion(binary: string): Promise<QemuVersion> {
  const version = parseQemuVersion(await run(binary, '--version'));
  if (version === undefined) throw missing(binary, 'its output has no QEMU version');
  if (Number.parseInt(version, 10) < QEMU_MAJOR_MIN) {
    throw missing(binary, `version ${version} is older than ${QEMU_MAJOR_MIN}.0`);
  }
  return { binary, version };
}

export function parseQemuVersion(output: string): string | undefined {
  return /^QEMU emulator version (\d+\.\d+(?:\.\d+)?)/.exec(output)?.[1];
}

/**
 * Finds qboot in QEMU's firmware folders; it starts a kernel 250 ms sooner than SeaBIOS in software emulation.
 * @returns `null` if it isn't installed
 */
export async function findQboot(binary: string): Promise<string | null> {
  for (const folder of (await run(binary, '-L', 'help')).split('\n')) {
    if (!folder.startsWith('/')) continue;
    const path = join(folder, 'qboot.rom');
    if (await isThere(path)) return path;
  }
  return null;
}

/**
 * The files that QEMU opens on this host: its program, first, the modules that run guests, and firmware. Libraries are
 * not listed.
 * @param binary an absolute path, or a name in `path`
 * @throws VmmError `vmm_missing`
 */
export async function listQemuFiles(binary: string, path: string): Promise<string[]> {
  const program = await findProgram(binary, path);
  const folders = (await run(binary, '-L', 'help')).split('\n').filter((one) => one.startsWith('/'));
  const firmware = await existing(FIRMWARE.map((name) => folders.map((folder) => resolve(folder, name))));
  const modules = await existing(MODULE_FOLDERS.map((folder) => [resolve(folder, 'accel-tcg-x86_64.so')]));
  return [program, ...modules, ...firmware];
}

/** Firmware of the machine `pc` without a display; the BIOS is for hosts without qboot. */
const FIRMWARE = ['qboot.rom', 'bios-256k.bin', 'kvmvapic.bin', 'linuxboot_dma.bin', 'pvh.bin'];
/** Module folders of Debian and Ubuntu, Fedora, Arch; QEMU does not report them. Some hosts link the last ones. */
const MODULE_FOLDERS = ['/usr/lib/x86_64-linux-gnu/qemu', '/usr/lib64/qemu', '/usr/lib64/qemu-kvm', '/usr/lib/qemu'];

async function findProgram(binary: string, path: string): Promise<string> {
  if (binary.startsWith('/')) return binary;
  const candidates = path.split(':').map((folder) => join(folder, binary));
  const [found] = await existing([candidates]);
  if (found === undefined) throw missing(binary, 'it is not in PATH');
  return found;
}

/** The first existing path of each list. */
async function existing(lists: readonly (readonly string[])[]): Promise<string[]> {
  const found = await Promise.all(
    lists.map(async (paths) => {
      for (const path of paths) {
        if (await isThere(path)) return [path];
      }
      return [];
    }),
  );
  return found.flat();
}

async function isThere(path: string): Promise<boolean> {
  return await awaitOr(false, 'elsewhere, or not installed', async () => {
    await access(path);
    return true;
  });
}

function run(binary: string, ...args: string[]): Promise<string> {
  const options = { timeout: RUN_MS_MAX, killSignal: 'SIGKILL' as const, maxBuffer: OUTPUT_BYTES_MAX };
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
    remedy: 'Install it: apt-get install qemu-system-x86, or run ./neurovisor setup.',
  });
}
