/** Loads E2B's own client if installed: 14 MB that only this proof needs, so it is not a dependency. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ProofError } from '../../prove/errors.ts';
import { errorCode } from '../../src/base/errors.ts';

/** The version that the tests use. */
export const E2B_VERSION = '2.51.0';

export type E2b = typeof import('e2b');

/**
 * @param folders where to look: NeuroVisor's own packages, then those of the current project
 * @throws ProofError `client_missing`
 */
export async function loadE2b(folders: readonly string[] = [import.meta.dirname, process.cwd()]): Promise<E2b> {
  for (const folder of folders) {
    const path = find(folder);
    if (path !== undefined) return (await import(pathToFileURL(path).href)) as E2b;
  }
  const remedy = `Install it in the current folder: npm install --no-save e2b@${E2B_VERSION}`;
  throw new ProofError('client_missing', "could not load E2B's client (package e2b)", { remedy });
}

function find(folder: string): string | undefined {
  try {
    return createRequire(join(folder, 'package.json')).resolve('e2b');
  } catch (error) {
    if (errorCode(error) === 'MODULE_NOT_FOUND') return undefined;
    throw error;
  }
}
