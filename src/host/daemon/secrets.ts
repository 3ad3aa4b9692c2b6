/** The daemon's secrets in the home, each created once, in a file that only its owner can read. */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CodedError, errorCode } from '../../base/errors.ts';
import { createOnce } from '../../base/key-file.ts';

const API_KEY = /^[\x21-\x7e]+$/;
const TOKEN_KEY = /^[0-9a-f]{64}$/;

/**
 * The API key of the ports: from the environment, otherwise from the home. Older E2B clients accept only keys of the
 * form `e2b_` and hexadecimal digits.
 */
export async function apiKey(given: string | null, homeDir: string): Promise<{ key: string; path: string | null }> {
  if (given !== null) return { key: given, path: null };
  const path = join(homeDir, 'api-key');
  const make = (): string => `e2b_${randomBytes(24).toString('hex')}`;
  return { key: await secretOf(path, API_KEY, make), path };
}

/** Key from which the tokens of sandboxes are derived. */
export async function tokenKey(homeDir: string): Promise<Buffer> {
  const make = (): string => randomBytes(32).toString('hex');
  return Buffer.from(await secretOf(join(homeDir, 'token-key'), TOKEN_KEY, make), 'hex');
}

/**
 * Reads a secret, or creates it atomically, even with a full disk or a kill: with an empty key, anybody could compute
 * tokens.
 * @throws CodedError `secret_damaged`
 */
async function secretOf(path: string, form: RegExp, make: () => string): Promise<string> {
  const known = await readIfThere(path);
  if (known !== null) {
    if (form.test(known)) return known;
    const remedy = 'restore it, or remove it: the next start makes another secret, and clients need the new one';
    throw new CodedError('secret_damaged', `${path}: the file is damaged`, { remedy });
  }
  const secret = make();
  if (await createOnce(path, Buffer.from(`${secret}\n`))) return secret;
  // Only one daemon has a home.
  throw new CodedError('secret_damaged', `${path}: something else made it at the same time`, { remedy: 'try again' });
}

/** `null` if the file does not exist. */
async function readIfThere(path: string): Promise<string | null> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    return null;
  }
}
