/** A program of this host that was named on the command line: is there one? */
import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ignore } from '../../base/ignore.ts';
import { UsageError } from '../failure.ts';

/**
 * As execvp(3) looks for it: by its path where it has a slash, else in the directories of PATH.
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
    ignore(error, 'not there, or nothing that may be executed');
    return false;
  }
}
