/** Files and variables of the host, as the readers of its configuration see them. Tests replace them. */
import { readdir, readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { errorCode } from '../../../base/errors.ts';

export interface HostFiles {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly home: string;
  /** Undefined if the file is missing or unreadable. */
  read(path: string): Promise<string | undefined>;
  /** Names in a directory; empty if it is missing or unreadable. */
  list(path: string): Promise<readonly string[]>;
}

export function hostFiles(env: Readonly<Record<string, string | undefined>>): HostFiles {
  return { env, home: env['HOME'] || homedir(), read: readIfThere, list: listIfThere };
}

const ABSENT = ['ENOENT', 'EACCES', 'ENOTDIR', 'EISDIR'];

async function listIfThere(path: string): Promise<readonly string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    if (ABSENT.includes(errorCode(error) ?? '')) return [];
    throw error;
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (ABSENT.includes(errorCode(error) ?? '')) return undefined;
    throw error;
  }
}
