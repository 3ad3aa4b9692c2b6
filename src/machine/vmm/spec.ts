/**
 * Checks a `VmSpec` before a driver uses it. A valid spec may go to a VMM as it is.
 *
 * The trust boundary is the VMM's command line: paths come from the user's home, and kernel arguments must not weaken
 * the guest. The host may have fewer processors than when the sandbox was made. All other numbers were checked with the
 * request (`sandbox/limits.ts`), so a wrong one is a programmer error.
 */
import { access, constants, stat } from 'node:fs/promises';
import { assert } from '../../base/assert.ts';
import { describeError } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import type { VmDisk, VmSpec } from './driver.ts';
import { VmmError } from './errors.ts';

const MEMORY_MIB_MIN = 64;
const MEMORY_MIB_MAX = 65_536;
/** 0–2 are reserved, 2³² − 1 is the wildcard (virtio 1.2, 5.10.4). */
const GUEST_CID_MIN = 3;
const GUEST_CID_MAX = 2 ** 32 - 2;
/** `sun_path` has 108 bytes with its NUL (unix(7)), and `_4294967295` is appended. */
const CHANNEL_PATH_BYTES_MAX = 96;
/** Limit for other sockets in `dir`. */
const SOCKET_PATH_BYTES_MAX = 107;
const PATH_BYTES_MAX = 4_096;
const ID_LENGTH_MAX = 64;
const BOOT_ARGS_MAX = 32;
const BOOT_ARG_LENGTH_MAX = 256;
/** Firecracker has 19 interrupts for all devices of a VM; QEMU's bus has more places. */
export const DISKS_MAX = 8;
/** QEMU has as many slots for them (`qemu/volumes.ts`). */
export const VOLUMES_MAX = 8;

/**
 * Kernel arguments that a spec may add. None can change what is booted (root, init) or weaken the guest's end (panic,
 * reboot); preserve this when adding one.
 */
const BOOT_ARG_NAMES = new Set([
  'debug',
  'ignore_loglevel',
  'init_on_alloc',
  'init_on_free',
  'neurovisor_environment',
  'initcall_debug',
  'loglevel',
  'printk.time',
  'transparent_hugepage',
]);
/** Prefix of arguments for our own guest agent. */
const BOOT_ARG_PREFIX = 'neurovisor.';

const ID = /^[a-z0-9]+$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern refuses them
const ABSOLUTE_PATH = /^\/[^\u0000-\u001f\u007f]*$/;
/** A unicast address: the lowest bit of the first byte marks a group. */
const MAC = /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/;
/** Our TAP names; the kernel accepts others, and takes `%d` as a template. */
const TAP_NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/;
const BOOT_ARG = /^[A-Za-z0-9_.,:/=-]+$/;

/**
 * @param cpusMax processors of the host
 * @throws VmmError `vm_spec_invalid` that names the field
 */
export function checkSpec(spec: VmSpec, cpusMax: number): void {
  const path = (field: PathField | 'disks', bytesMax: number, value = ''): void => {
    if (!ABSOLUTE_PATH.test(value)) throw invalid(field, 'it is not a plain absolute path');
    if (Buffer.byteLength(value) > bytesMax) {
      throw invalid(field, `it is longer than ${bytesMax} bytes`);
    }
  };
  if (!ID.test(spec.id) || spec.id.length > ID_LENGTH_MAX) throw invalid('id', 'not [a-z0-9]+');
  if (!isWhole(spec.cpus, 1, cpusMax)) {
    throw invalid('cpus', `${spec.cpus} is not a whole number from 1 to ${cpusMax}`);
  }
  const { memoryMib, balloonMib = 0, guestCid } = spec;
  assert(isWhole(memoryMib, MEMORY_MIB_MIN, MEMORY_MIB_MAX), `memoryMib is ${memoryMib}`);
  // The guest keeps at least the minimum memory of a VM.
  assert(isWhole(balloonMib, 0, memoryMib - MEMORY_MIB_MIN), `balloonMib is ${balloonMib}`);
  assert(isWhole(guestCid, GUEST_CID_MIN, GUEST_CID_MAX), `guestCid is ${guestCid}`);
  path('channelPath', CHANNEL_PATH_BYTES_MAX, spec.channelPath);
  path('dir', SOCKET_PATH_BYTES_MAX - VHOST_SOCKET_NAME.length - 1, spec.dir);
  for (const field of ['kernelPath', 'rootImagePath', 'overlayPath'] as const) {
    path(field, PATH_BYTES_MAX, spec[field]);
  }
  const { disks = [] } = spec;
  if (disks.length > DISKS_MAX) throw invalid('disks', `more than ${DISKS_MAX}`);
  for (const disk of disks) path('disks', PATH_BYTES_MAX, disk.path);
  if ((spec.volumes ?? []).length > VOLUMES_MAX) throw invalid('volumes', `more than ${VOLUMES_MAX}`);
  if (spec.memoryFd !== undefined && !(Number.isSafeInteger(spec.memoryFd) && spec.memoryFd > 2)) {
    throw invalid('memoryFd', `${spec.memoryFd} is not a descriptor`);
  }
  if (spec.memoryFd === undefined && spec.snapshot !== undefined && spec.snapshot.memoryPath === undefined) {
    throw invalid('memoryFd', 'a snapshot needs its RAM');
  }
  if (spec.nic !== undefined) {
    const { tapFd, tapName, mac } = spec.nic;
    if (tapName !== undefined && !TAP_NAME.test(tapName))
      throw invalid('nic', `${JSON.stringify(tapName)} is not a TAP name`);
    if (tapName === undefined && !(Number.isSafeInteger(tapFd) && tapFd > 2))
      throw invalid('nic', `${tapFd} is not a descriptor`);
    if (!MAC.test(mac)) throw invalid('nic', `${JSON.stringify(mac)} is not a unicast MAC address`);
  }
  checkBootArgs(spec.bootArgs ?? []);
}

function isWhole(value: number, min: number, max: number): boolean {
  return Number.isSafeInteger(value) && value >= min && value <= max;
}

type PathField = 'dir' | 'kernelPath' | 'rootImagePath' | 'overlayPath' | 'channelPath';

/** The vhost-user socket, in `dir`. */
export const VHOST_SOCKET_NAME = 'vhost';

function checkBootArgs(args: readonly string[]): void {
  if (args.length > BOOT_ARGS_MAX) throw invalid('bootArgs', `more than ${BOOT_ARGS_MAX}`);
  for (const arg of args) {
    const name = arg.split('=', 1)[0] ?? '';
    if (!BOOT_ARG.test(arg) || arg.length > BOOT_ARG_LENGTH_MAX) {
      throw invalid('bootArgs', `${JSON.stringify(arg.slice(0, 80))} has invalid characters`);
    }
    if (!BOOT_ARG_NAMES.has(name) && !name.startsWith(BOOT_ARG_PREFIX)) {
      throw invalid('bootArgs', `"${name}" is not an allowed argument`);
    }
  }
}

/**
 * Checks that the files exist and are usable.
 * @throws VmmError `vm_spec_invalid` that names the field
 */
export async function checkFiles(spec: VmSpec): Promise<void> {
  const file = async (field: FileField, mode: number, path: string) => {
    try {
      await access(path, mode);
      if (!(await stat(path)).isFile()) throw new Error('it is not a file');
    } catch (error) {
      throw invalid(field, describeError(error));
    }
  };
  await file('kernelPath', constants.R_OK, spec.kernelPath);
  await file('rootImagePath', constants.R_OK, spec.rootImagePath);
  await file('overlayPath', constants.R_OK | constants.W_OK, spec.overlayPath);
  for (const disk of spec.disks ?? []) await file('disks', modeOf(disk), disk.path);
  if (spec.memoryFd !== undefined) {
    const memory = await stat(`/proc/self/fd/${spec.memoryFd}`).catch((error: unknown) => {
      throw invalid('memoryFd', describeError(error));
    });
    if (!memory.isFile() || memory.size !== spec.memoryMib * MIB) {
      throw invalid('memoryFd', "it is not a file of the RAM's size");
    }
  }
  const dir = await stat(spec.dir).catch((error: unknown) => {
    throw invalid('dir', describeError(error));
  });
  if (!dir.isDirectory()) throw invalid('dir', 'it is not a directory');
}

type FileField = 'kernelPath' | 'rootImagePath' | 'overlayPath' | 'disks';

const modeOf = ({ access }: VmDisk): number => (access === 'read' ? constants.R_OK : constants.R_OK | constants.W_OK);

function invalid(field: string, cause: string): VmmError {
  return new VmmError('vm_spec_invalid', `the VM's ${field} can't be used`, { cause });
}
