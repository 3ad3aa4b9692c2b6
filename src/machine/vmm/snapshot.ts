/** Checks a snapshot before a VMM loads any of it: a wrong one would corrupt the guest instead of failing. */
import { createHash } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { MIB } from '../../base/units.ts';
import type { VmSnapshot } from './driver.ts';
import { VmmError } from './errors.ts';

/** The devices of a PC take 150–300 KB. */
export const STATE_BYTES_MAX = 16 * MIB;

export function stateDigest(state: Uint8Array): string {
  return createHash('sha256').update(state).digest('hex');
}

/**
 * Reads the device state and verifies exactly these bytes.
 * @param machine `machineOf` the VM that loads it
 * @throws VmmError `snapshot_refused`
 */
export async function readSnapshot(snapshot: VmSnapshot, machine: string): Promise<Buffer> {
  if (snapshot.machine !== machine) {
    throw refused(`it was taken on another machine: ${snapshot.machine}; this one is ${machine}`);
  }
  const state = await readState(snapshot.statePath);
  if (stateDigest(state) !== snapshot.stateSha256) throw refused('its digest does not match');
  return state;
}

/**
 * Checks that the RAM file of a whole snapshot exists and has the right size. Does not read it, which would take longer
 * than the start.
 * @throws VmmError `snapshot_refused`
 */
export async function checkMemoryFile(path: string, memoryMib: number): Promise<void> {
  try {
    const found = await stat(path);
    if (!found.isFile() || found.size !== memoryMib * MIB) {
      throw refused("its RAM file has not the machine's size");
    }
  } catch (error) {
    if (error instanceof VmmError) throw error;
    throw refused(error);
  }
}

/**
 * Reads a state that its VMM, which can be hostile, may still be writing: no more than its size at the first look.
 * @throws VmmError `snapshot_refused` if it is too large, or grows meanwhile
 */
export async function readStateFile(path: string): Promise<Buffer> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  if (size > STATE_BYTES_MAX) throw refused(`it is larger than ${STATE_BYTES_MAX} bytes`);
  // One more than it should have, to notice growth.
  const bytes = Buffer.alloc(size + 1);
  let length = 0;
  for (;;) {
    const { bytesRead } = await file.read(bytes, length, bytes.length - length, length);
    length += bytesRead;
    if (length > size) throw refused('it grew while it was read');
    if (bytesRead === 0) return bytes.subarray(0, length);
  }
}

/** @param cause the VMM's message */
export function loadRefused(cause: unknown): VmmError {
  return refused(cause);
}

async function readState(path: string): Promise<Buffer> {
  try {
    return await readStateFile(path);
  } catch (error) {
    if (error instanceof VmmError) throw error;
    throw refused(error);
  }
}

function refused(cause: unknown): VmmError {
  return new VmmError('snapshot_refused', 'could not load the snapshot', {
    cause,
    remedy: 'Rebuild it: `neurovisor template rm`, then `neurovisor template create`.',
  });
}
