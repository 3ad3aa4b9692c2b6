/** Files of keys: readable by their owner alone, complete or absent. */
import { randomUUID } from 'node:crypto';
import { closeSync, constants, fstatSync, linkSync, openSync, readSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { assert } from './assert.ts';
import { errorCode } from './errors.ts';
import { otherOwnerRemedy } from './private-dir.ts';

const OTHERS = 0o077;
/** Name of the file of an owner's key. */
export const KEY_FILE_NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/;

/** Directory of the owners' keys, beside the key of the store at `keyPath`. */
export const ownerKeysDir = (keyPath: string): string => `${keyPath}s`;

/**
 * File of the key that encrypts an owner's saves. Without it they can never be read again.
 * @param owner named by our own code: `operator`, `tenant NAME`
 */
export function ownerKeyPath(dir: string, owner: string): string {
  const name = owner.replaceAll(' ', '.');
  assert(KEY_FILE_NAME.test(name), 'an owner has a name');
  return join(dir, name);
}

/**
 * @param bytesMax of a valid file; one byte more is read of a longer one
 * @param unusable makes the error of a file that this user can't read, or others can
 * @returns undefined if there is no file
 */
export function readPrivate(
  path: string,
  bytesMax: number,
  unusable: (path: string, cause: unknown, remedy?: string) => Error,
): Buffer | undefined {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw unusable(path, error);
  }
  try {
    const { uid, mode } = fstatSync(fd);
    if (uid !== process.geteuid?.()) {
      throw unusable(path, `its owner is user ${uid}`, otherOwnerRemedy(uid));
    }
    if ((mode & OTHERS) !== 0) {
      throw unusable(path, 'other users can read or write it', `Run: chmod 600 ${path}`);
    }
    const bytes = Buffer.alloc(bytesMax + 1);
    return bytes.subarray(0, readSync(fd, bytes));
  } finally {
    closeSync(fd);
  }
}

/**
 * Creates a file atomically, with mode 0600: other processes see it complete or not at all. It survives a power failure.
 * @returns false if it exists already, and is as it was
 */
export async function createOnce(path: string, bytes: Uint8Array): Promise<boolean> {
  const temporary = `${path}.${randomUUID()}`;
  try {
    await using file = await open(temporary, 'wx', 0o600);
    await file.writeFile(bytes);
    await file.sync();
    linkSync(temporary, path);
    await syncDirectory(dirname(path));
    return true;
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return false;
    throw error;
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Overwrites and removes a file. @returns false if there is none */
export async function eraseFile(path: string): Promise<boolean> {
  try {
    await using file = await open(path, constants.O_WRONLY | constants.O_NOFOLLOW);
    const { size } = await file.stat();
    await file.write(Buffer.alloc(size), 0, size, 0);
    await file.sync();
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false;
    throw error;
  }
  rmSync(path, { force: true });
  await syncDirectory(dirname(path));
  return true;
}

async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r');
  await directory.sync();
}
