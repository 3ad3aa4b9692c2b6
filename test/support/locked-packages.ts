/**
 * Packages of tests, each set pinned by a lock file. They come from the registries of their languages into the cache of
 * the home, once per lock file; no install script runs.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';

/** Of the lock files' wheels. */
const PYTHON = '3.11';
const INSTALL_MS_MAX = 300_000;

export interface PythonPackages {
  /** Of an environment with the packages; for `python -m NAME`, since its scripts have another path in them. */
  readonly python: string;
  /** With the programs of the packages. */
  readonly env: { readonly PATH: string };
}

/** @throws if the registry can't be reached, or there is no Python for the wheels */
export function lockedPython(name: string, lock: string): PythonPackages {
  const python = findPython();
  const dir = installed(name, [lock], (target) => {
    const pip = ['install', '-q', '--require-hashes', '--no-deps'];
    const quiet = ['--no-input', '--disable-pip-version-check', '--no-cache-dir', '--no-compile'];
    const only = ['--only-binary=:all:', '--root-user-action=ignore'];
    run(python, ['-m', 'venv', '--without-pip', target]);
    const into = ['-m', 'pip', '--python', join(target, 'bin/python'), ...pip];
    run(python, [...into, ...quiet, ...only, '-r', lock]);
  });
  const bin = join(dir, 'bin');
  return { python: join(bin, 'python'), env: { PATH: `${bin}:${process.env['PATH']}` } };
}

/**
 * @param source directory with `package.json` and `package-lock.json`
 * @returns a directory with `node_modules`
 * @throws if the registry can't be reached
 */
export function lockedNode(name: string, source: string): string {
  const files = ['package.json', 'package-lock.json'].map((file) => join(source, file));
  return installed(name, files, (target) => {
    for (const file of files) cpSync(file, join(target, basename(file)));
    run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--silent'], target);
  });
}

/** The result, or the reason why there is none. */
export function orReason<T>(find: () => T): T | string {
  try {
    return find();
  } catch (error) {
    return error instanceof Error ? error.message.split('\n', 1).join('') : String(error);
  }
}

/** The interpreter itself: a version manager's shim in PATH runs more after `pip install`, which can fail by itself. */
export function findPython(): string {
  const about = 'import sys, pip; print("%d.%d" % sys.version_info[:2], sys.executable)';
  for (const python of ['python3', `python${PYTHON}`, `/usr/bin/python${PYTHON}`]) {
    const found = orReason(() => run(python, ['-c', about]).trim());
    if (found.startsWith(`${PYTHON} /`)) return found.slice(PYTHON.length + 1);
  }
  throw new Error(`there is no Python ${PYTHON} with pip`);
}

/** The directory that `install` has filled for these lock files, now or in an earlier run. */
export function installed(
  name: string,
  locks: readonly string[],
  install: (target: string) => void,
): string {
  const home = process.env['NEUROVISOR_HOME'] || join(homedir(), '.neurovisor');
  const cache = join(home, 'cache/test-api-clients');
  mkdirSync(cache, { recursive: true, mode: 0o700 });
  const hash = createHash('sha256');
  for (const lock of locks) hash.update(readFileSync(lock));
  const dir = join(cache, `${name}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(dir)) return dir;
  const beside = mkdtempSync(join(cache, 'install-'));
  try {
    install(beside);
    renameSync(beside, dir);
  } catch (error) {
    // Another test file may have been faster.
    if (!existsSync(dir)) throw error;
  } finally {
    rmSync(beside, { recursive: true, force: true });
  }
  return dir;
}

export function run(program: string, args: readonly string[], cwd?: string): string {
  const options = { cwd, stdio: 'pipe', timeout: INSTALL_MS_MAX, encoding: 'utf8' } as const;
  return execFileSync(program, args, options);
}
