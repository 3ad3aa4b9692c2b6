/** Secrets of the daemon in the home, each made once, in a file that only its owner can read. */
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';

/**
 * The key of its ports: that of the environment, otherwise that of the home. Older clients of E2B take only keys like
 * `e2b_` and hexadecimal digits.
 */
export async function apiKey(
  given: string | null,
  homeDir: string,
): Promise<{ key: string; path: string | null }> {
  if (given !== null) return { key: given, path: null };
  const path = join(homeDir, 'api-key');
  return { key: await secretOf(path, () => `e2b_${randomBytes(24).toString('hex')}`), path };
}

/** From which the tokens of sandboxes are derived. */
export async function tokenKey(homeDir: string): Promise<Buffer> {
  const text = await secretOf(join(homeDir, 'token-key'), () => randomBytes(32).toString('hex'));
  return Buffer.from(text, 'hex');
}

async function secretOf(path: string, make: () => string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
  const secret = make();
  await writeFile(path, `${secret}\n`, { mode: 0o600, flag: 'wx' });
  return secret;
}
