/**
 * Saves and loads the state of a VM's devices, by a QEMU migration that leaves the RAM in place.
 *
 *     save   stop ─► migrate                ─► anonymous file ─► bytes
 *            stop ─► xen-save-devices-state ─► anonymous file ─► bytes, with the configuration of the loaded state
 *     load   bytes ─► anonymous file ─► migrate-incoming
 *
 * A migration writes RAM that QEMU does not share into the stream, so the devices of such a VM are saved by the second command,
 * which needs no Xen.
 *
 * QEMU gets a descriptor (SCM_RIGHTS over QMP) and opens no file, so this works in a jail, and exactly the verified
 * bytes are loaded.
 */
import { constants, openSync, readSync, writeSync } from 'node:fs';
import { sleep } from '../../../base/clock.ts';
import { closeFd, createMemFd, fileSize } from '../../../sys/fd.ts';
import { VmmError } from '../errors.ts';
import { STATE_BYTES_MAX } from '../snapshot.ts';
import type { QmpClient } from './qmp.ts';

/** Usually 10 ms. */
const MIGRATION_MS_MAX = 30_000;
const NAME = 'state';

/** Leaves the VM stopped. @throws VmmError `vmm_command_failed`, `vmm_timeout`, `vm_gone` */
export async function saveState(qmp: QmpClient): Promise<Buffer> {
  const fd = createMemFd(NAME, 0);
  try {
    await qmp.execute('stop');
    await setCapabilities(qmp);
    await qmp.passFd(NAME, fd);
    await migrate(qmp, 'migrate');
    await finished(qmp);
    return readState(fd, 'migrate');
  } finally {
    closeFd(fd);
  }
}

function readState(fd: number, command: string): Buffer {
  const size = fileSize(fd);
  if (size < STREAM_HEADER_BYTES || size > STATE_BYTES_MAX) throw failed(command, `it wrote ${size} bytes`);
  const state = Buffer.alloc(size);
  const read = readSync(fd, state, 0, size, 0);
  if (read !== size) throw failed(command, 'its state shrank');
  return state;
}

/**
 * The same for a VM with private RAM. Its stream has no configuration section, so the one from the VM's starting state
 * is used. Leaves the VM stopped.
 * @throws VmmError `vmm_command_failed`, `vmm_timeout`, `vm_gone`
 */
export async function saveDevices(qmp: QmpClient, configuration: Buffer): Promise<Buffer> {
  const fd = createMemFd(NAME, 0);
  try {
    await qmp.execute('stop');
    // QEMU looks for a descriptor with the access that it requests.
    const writable = openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY);
    try {
      const added = await qmp.addFd(writable);
      try {
        await qmp.execute(SAVE_DEVICES, { filename: added.path, live: false });
      } finally {
        added.release();
      }
    } finally {
      closeFd(writable);
    }
    const devices = readState(fd, SAVE_DEVICES);
    if (devices.readUInt32BE(0) !== STREAM_MAGIC || devices.readUInt32BE(4) !== STREAM_VERSION)
      throw failed(SAVE_DEVICES, 'it wrote an unknown stream');
    return Buffer.concat([configuration, devices.subarray(STREAM_HEADER_BYTES)]);
  } finally {
    closeFd(fd);
  }
}

/**
 * The beginning of a state of this driver: header and configuration, up to the first section (QEMU, migration/savevm.c).
 *
 *     u32 magic · u32 version · u8 7 · u32 length, machine · (u8 5 · u8 length, name · u32 version · its data)*
 *
 * @throws VmmError `vmm_command_failed` if it has unknown parts
 */
export function configurationOf(state: Buffer): Buffer {
  const problem = (what: string): VmmError => failed('migrate-incoming', `its state has ${what}`);
  try {
    let at = STREAM_HEADER_BYTES;
    const text = (lengthBytes: 1 | 4): string => {
      const length = state.readUIntBE(at, lengthBytes);
      at += lengthBytes + length;
      if (at > state.length) throw new RangeError('it is cut off');
      return state.toString('latin1', at - length, at);
    };
    if (state[at] !== CONFIGURATION) throw problem('no configuration');
    at += 1;
    text(4);
    while (state[at] === SUBSECTION) {
      at += 1;
      const name = text(1);
      at += 4;
      if (name === 'configuration/target-page-bits') at += 4;
      else if (name === 'configuration/capabilities') {
        const count = state.readUInt32BE(at);
        at += 4;
        for (let index = 0; index < count; index += 1) text(1);
      } else throw problem(`the unknown part ${JSON.stringify(name)}`);
    }
    const next = state[at];
    if (next !== SECTION_START && next !== SECTION_FULL) throw problem('no section');
    // Kept as long as the VM: a copy that retains neither the rest nor, as `Buffer.from` does, a piece of Node's pool
    // (64 KiB).
    const kept = Buffer.alloc(at);
    state.copy(kept, 0, 0, at);
    return kept;
  } catch (error) {
    if (error instanceof RangeError) throw problem('no end');
    throw error;
  }
}

const SAVE_DEVICES = 'xen-save-devices-state';
/** `QEVM`, then version 3. */
const STREAM_MAGIC = 0x5145_564d;
const STREAM_VERSION = 3;
const STREAM_HEADER_BYTES = 8;
/** Types of the next section: a section in parts, which the RAM is, and one of a device. */
const SECTION_START = 1;
const SECTION_FULL = 4;
const SUBSECTION = 5;
const CONFIGURATION = 7;

/** @throws VmmError `vmm_command_failed`, `vmm_timeout`, `vm_gone` */
export async function loadState(qmp: QmpClient, state: Buffer): Promise<void> {
  const fd = createMemFd(NAME, state.length);
  try {
    // Written at a position: QEMU shares the offset and starts at the first byte.
    const written = writeSync(fd, state, 0, state.length, 0);
    if (written !== state.length) throw failed(LOAD, 'the state could not be written');
    // Sent together: QEMU obeys in this order, and each wait for an answer would cost a turn of two event loops.
    await Promise.all([setCapabilities(qmp), qmp.passFd(NAME, fd), migrate(qmp, LOAD)]);
  } finally {
    closeFd(fd);
  }
}

/** The event comes a moment before QEMU allows `cont`. */
async function finished(qmp: QmpClient): Promise<void> {
  for (let asked = 0; asked < STATUS_ASKED_MAX; asked += 1) {
    const answer = await qmp.execute('query-status');
    if ((answer as { status?: unknown } | null)?.status !== 'finish-migrate') return;
    await sleep(STATUS_GAP_MS);
  }
}

/** A second in total; a millisecond is usual. */
const STATUS_ASKED_MAX = 500;
const STATUS_GAP_MS = 2;

const LOAD = 'migrate-incoming';

async function setCapabilities(qmp: QmpClient): Promise<void> {
  const capabilities = ['x-ignore-shared', 'events'].map((capability) => ({ capability, state: true }));
  await qmp.execute('migrate-set-capabilities', { capabilities });
}

/** Uses the descriptor that QEMU has by `NAME`. */
async function migrate(qmp: QmpClient, command: 'migrate' | typeof LOAD): Promise<void> {
  const over = qmp.event(
    (event) => event.name === 'MIGRATION' && OVER.has(String(event.data['status'])),
    MIGRATION_MS_MAX,
  );
  const [event] = await Promise.all([over, qmp.execute(command, { uri: `fd:${NAME}` })]);
  const { status } = event.data;
  if (status !== 'completed') throw failed(command, `the migration ended as ${String(status)}`);
}

const OVER = new Set(['completed', 'failed', 'cancelled']);

function failed(command: string, cause: string): VmmError {
  return new VmmError('vmm_command_failed', `QEMU did not finish "${command}"`, { cause });
}
