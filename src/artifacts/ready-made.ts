/** The environments that NeuroVisor ships: Dockerfiles in `environments/`, each built when it is first used. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { PACKAGE_DIR } from '../base/package-dir.ts';
import type { StartCommand } from '../sandbox/contract/schema/request.ts';

export interface ReadyMade {
  /** Name of its base environment; `null` for the default environment. */
  readonly from: string | null;
  /** Memory of the template with its name, in MiB. */
  readonly memoryMib: number;
  readonly diskMib: number;
  /** The program that each clone has running. */
  readonly start?: StartCommand;
}

/** E2B's code interpreter (`environments/code-interpreter`), with warm kernels. */
const CODE_INTERPRETER: StartCommand = {
  command: 'exec python3 -m code_interpreter',
  ready: 'curl -fs http://127.0.0.1:49999/health',
  // Imports the packages for data science, in software emulation.
  readyTimeoutMs: 300_000,
};

/** By name, which is also the name of its template. */
export const READY_MADE: ReadonlyMap<string, ReadyMade> = new Map([
  ['base', { from: null, memoryMib: 1024, diskMib: 4096 }],
  ['code-interpreter', { from: 'base', memoryMib: 1024, diskMib: 4096, start: CODE_INTERPRETER }],
]);

export function readyMadeDir(name: string): string {
  return join(PACKAGE_DIR, 'environments', name);
}

/** Digest of the environment's inputs, except for answers of indexes. @param systemDigest of the default environment */
export async function readyMadeRecipe(name: string, systemDigest: string): Promise<string> {
  const hash = createHash('sha256').update(systemDigest);
  for (let one: string | null = name; one !== null; one = READY_MADE.get(one)?.from ?? null) {
    const { start } = READY_MADE.get(one) ?? {};
    if (start !== undefined) hash.update(JSON.stringify(start));
    for (const file of await filesOf(readyMadeDir(one))) {
      hash.update(file).update(await readFile(join(readyMadeDir(one), file)));
    }
  }
  return hash.digest('hex');
}

/** Excludes what Python leaves beside its sources. */
async function filesOf(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const files = entries.filter((one) => one.isFile() && !one.parentPath.endsWith('__pycache__'));
  return files.map(({ parentPath, name }) => relative(dir, join(parentPath, name))).sort();
}
