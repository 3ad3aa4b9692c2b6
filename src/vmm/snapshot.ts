/** Judges a snapshot before a VMM gets to see any of it: a wrong one would be a guest gone mad, not an error. */
import { createHash } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { MIB } from '../base/units.ts';
import type { VmSnapshot } from './driver.ts';
import { VmmError } from './errors.ts';

/** A PC without its RAM has 150–300 KB. */
export const STATE_BYTES_MAX = 16 * MIB;

export function stateDigest(state: Uint8Array): string {
  return createHash('sha256').update(state).digest('hex');
}

/**
 * The device state, exactly the bytes that were verified.
 * @param machine of the VM that is to load it
 * @throws VmmError `snapshot_refused`
 */
export async function readSnapshot(snapshot: VmSnapshot, machine: string): Promise<Buffer> {
  if (snapshot.machine !== machine) {
    throw refused(`it is of another machine: ${snapshot.machine}; this one is ${machine}`);
  }
  const state = await readState(snapshot.statePath);
  if (stateDigest(state) !== snapshot.stateSha256) throw refused('its digest is another');
  return state;
}

/**
 * The RAM of a whole snapshot is there and has the right size. Its content is not read: that would take longer
 * than the start.
 * @throws VmmError `snapshot_refused`
 */
export async function checkMemoryFile(path: string, memoryMib: number): Promise<void> {
  try {
    const found = await stat(path);
    if (!found.isFile() || found.size !== memoryMib * MIB) {
      throw refused('its RAM is not a file of the size of the machine');
    }
  } catch (error) {
    if (error instanceof VmmError) throw error;
    throw refused(error);
  }
}

/** @param cause what the VMM said */
export function loadRefused(cause: unknown): VmmError {
  return refused(cause);
}

async function readState(path: string): Promise<Buffer> {
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    if (size > STATE_BYTES_MAX) throw refused(`it is larger than ${STATE_BYTES_MAX} bytes`);
    return await file.readFile();
  } catch (error) {
    if (error instanceof VmmError) throw error;
    throw refused(error);
  }
}

function refused(cause: unknown): VmmError {
  return new VmmError('snapshot_refused', 'the snapshot can not be loaded', {
    cause,
    remedy: 'remove it and make it anew: `neurovisor template rm`, `neurovisor template build`',
  });
}
