/** How the readers of the host's configuration see it: files and variables. Tests give their own. */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { errorCode } from '../../base/errors.ts';

export interface HostFiles {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly home: string;
  /** Undefined: there is no such file, or it can't be read. */
  read(path: string): Promise<string | undefined>;
}

export function hostFiles(env: Readonly<Record<string, string | undefined>>): HostFiles {
  return { env, home: env['HOME'] || homedir(), read: readIfThere };
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (['ENOENT', 'EACCES', 'ENOTDIR', 'EISDIR'].includes(errorCode(error) ?? ''))
      return undefined;
    throw error;
  }
}
