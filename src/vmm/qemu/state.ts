/**
 * Saves and loads the state of a VM's devices, by a QEMU migration that leaves the RAM in place.
 *
 *     save   stop ─► migrate          ─► anonymous file ─► bytes
 *     load   bytes ─► anonymous file ─► migrate-incoming
 *
 * QEMU gets a descriptor (SCM_RIGHTS over QMP) and opens no file, so this works in a jail, and exactly the verified
 * bytes are loaded.
 */
import { readSync, writeSync } from 'node:fs';
import { sleep } from '../../base/clock.ts';
import { closeFd, createMemFd, fileSize } from '../../sys/fd.ts';
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
    await migrate(qmp, 'migrate', fd);
    await finished(qmp);
    const size = fileSize(fd);
    if (size < 1 || size > STATE_BYTES_MAX) throw failed('migrate', `it wrote ${size} bytes`);
    const state = Buffer.alloc(size);
    const read = readSync(fd, state, 0, size, 0);
    if (read !== size) throw failed('migrate', 'its state shrank');
    return state;
  } finally {
    closeFd(fd);
  }
}

/** @throws VmmError `vmm_command_failed`, `vmm_timeout`, `vm_gone` */
export async function loadState(qmp: QmpClient, state: Buffer): Promise<void> {
  const fd = createMemFd(NAME, state.length);
  try {
    // Written at a position: QEMU shares the offset and starts at the first byte.
    const written = writeSync(fd, state, 0, state.length, 0);
    if (written !== state.length)
      throw failed('migrate-incoming', 'the state could not be written');
    await migrate(qmp, 'migrate-incoming', fd);
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

async function migrate(
  qmp: QmpClient,
  command: 'migrate' | 'migrate-incoming',
  fd: number,
): Promise<void> {
  const capabilities = ['x-ignore-shared', 'events'].map((capability) => ({
    capability,
    state: true,
  }));
  await qmp.execute('migrate-set-capabilities', { capabilities });
  await qmp.passFd(NAME, fd);
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
