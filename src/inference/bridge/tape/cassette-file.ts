/** Cassettes as files (io). */

import { open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { collect } from '../../../base/collect.ts';
import { errorCode } from '../../../base/errors.ts';
import { awaitOr, ignore } from '../../../base/ignore.ts';
import { CASSETTE_BYTES_MAX, type Cassette, cassetteText, cassetteTooLarge, parseCassette } from './cassette.ts';
import { CassetteError } from './errors.ts';

/** @throws CassetteError */
export async function readCassette(path: string): Promise<Cassette> {
  const bytes = await readBytes(path).catch((cause: unknown) => {
    if (cause instanceof CassetteError) throw named(path, cause);
    throw failed(path, errorCode(cause) === 'ENOENT' ? 'find' : 'read', cause);
  });
  try {
    return parseCassette(bytes);
  } catch (error) {
    throw error instanceof CassetteError ? named(path, error) : error;
  }
}

/**
 * Call before anything is recorded: writing would destroy a file that is no cassette, and fail without its directory.
 * @throws CassetteError
 */
export async function requireCassettePlace(path: string): Promise<void> {
  try {
    const dir = await stat(dirname(path));
    if (!dir.isDirectory()) throw new Error('its directory is a file');
    await stat(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw failed(path, 'write', error);
    if (!(await isThere(dirname(path)))) throw failed(path, 'write', error);
    return;
  }
  await readCassette(path);
}

/** Replaces the file as a whole, readable only by its owner. @throws CassetteError */
export async function writeCassette(path: string, cassette: Cassette): Promise<void> {
  const text = cassetteText(cassette);
  if (Buffer.byteLength(text) > CASSETTE_BYTES_MAX) throw named(path, cassetteTooLarge());
  const draft = join(dirname(path), `.${basename(path)}.${process.pid}.new`);
  try {
    const file = await open(draft, 'wx', 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true }).catch((reason: unknown) => ignore(reason, 'the cause follows'));
    throw failed(path, 'write', error);
  }
}

async function readBytes(path: string): Promise<Buffer> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  if (size > CASSETTE_BYTES_MAX) throw cassetteTooLarge();
  // A pipe has no size.
  return await collect(file.createReadStream({ autoClose: false }), CASSETTE_BYTES_MAX, cassetteTooLarge);
}

async function isThere(path: string): Promise<boolean> {
  return await awaitOr(false, 'reported by the caller', async () => {
    await stat(path);
    return true;
  });
}

const named = (path: string, error: CassetteError): CassetteError =>
  new CassetteError(error.code, `${path}: ${error.message}`, {
    ...(error.remedy === undefined ? {} : { remedy: error.remedy }),
  });

const REMEDIES = {
  find: 'record it first: neurovisor run --record FILE',
  read: 'check the permissions of the file',
  write: 'check that the directory exists, is writable and has space',
} as const;

function failed(path: string, what: keyof typeof REMEDIES, cause: unknown): CassetteError {
  return new CassetteError('cassette_failed', `could not ${what} the cassette ${path}`, {
    cause,
    remedy: REMEDIES[what],
  });
}
