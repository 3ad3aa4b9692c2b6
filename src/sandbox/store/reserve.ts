/**
 * A file that is removed when the disk is full. Removing a snapshot frees space but needs some first, for its
 * transaction; without a reserve a full disk could not be cleared.
 */
import { rmSync, statSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { ignore } from '../../base/ignore.ts';
import { RESERVE_BYTES } from './limits.ts';

/** Creates the reserve if it is missing. Does nothing if there is no space for it. */
export async function keepReserve(path: string): Promise<void> {
  try {
    await writeFile(path, Buffer.alloc(RESERVE_BYTES), { flag: 'wx', mode: 0o600 });
  } catch (error) {
    ignore(error, 'the reserve exists, or there is no space for it');
    if (!isWhole(path)) await rm(path, { force: true });
  }
}

/** @returns whether space was freed */
export function spendReserve(path: string): boolean {
  if (!isWhole(path)) return false;
  rmSync(path, { force: true });
  return true;
}

const isWhole = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.size === RESERVE_BYTES;
