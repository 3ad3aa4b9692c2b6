/**
 * A file of nothing that is given up when the disk is full. Removing a snapshot frees space but needs a
 * little first, for its transaction; without a reserve a full disk could not be cleared.
 */
import { rmSync, statSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { ignore } from '../base/ignore.ts';
import { RESERVE_BYTES } from './limits.ts';

/** Makes it if it is not there. Fails silently: without space there is none to reserve. */
export async function keepReserve(path: string): Promise<void> {
  try {
    await writeFile(path, Buffer.alloc(RESERVE_BYTES), { flag: 'wx', mode: 0o600 });
  } catch (error) {
    ignore(error, 'the reserve is there, or there is no space for it');
    if (!isWhole(path)) await rm(path, { force: true });
  }
}

/** @returns whether space was freed */
export function spendReserve(path: string): boolean {
  if (!isWhole(path)) return false;
  rmSync(path, { force: true });
  return true;
}

const isWhole = (path: string): boolean =>
  statSync(path, { throwIfNoEntry: false })?.size === RESERVE_BYTES;
