/** Checks that a program named on the command line exists on this host. */
import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ignore } from '../../src/base/ignore.ts';
import { UsageError } from '../../src/cli/failure.ts';

/**
 * Searches like execvp(3): a name with a slash is a path, others are searched in PATH.
 * @throws UsageError
 */
export async function requireProgram(name: string, path: string | undefined): Promise<void> {
  const candidates = name.includes('/')
    ? [name]
    : (path ?? '').split(':').map((dir) => join(dir === '' ? '.' : dir, name));
  for (const file of candidates) if (await isProgram(file)) return;
  throw new UsageError(`program ${name} not found`, 'use a program in PATH, or a path');
}

async function isProgram(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile();
  } catch (error) {
    ignore(error, 'missing, or not executable');
    return false;
  }
}
