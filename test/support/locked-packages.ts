/**
 * Packages of tests, each set pinned by a lock file. They come from the registries of their languages into the cache of
 * the home, once per lock file; no install script runs.
 *
 * All clients share one environment of each language. A second one has E2B's clients of the generation before: the same
 * packages in other versions.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, cpSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { tryLockExclusive } from '../../src/sys/file.ts';
import { testCacheDir } from './wheel.ts';

const CLIENTS_DIR = join(import.meta.dirname, '../fixtures/clients');
/** Python version of the lock files' wheels. */
const PYTHON = '3.11';
const INSTALL_MS_MAX = 600_000;
const LOCK_POLL_MS = 100;

export type ClientVersion = 'newest' | '2.45';

export interface PythonPackages {
  /** The Python of an environment with the packages; for `python -m NAME`, since its scripts contain another path. */
  readonly python: string;
  /** Includes the programs of the packages. */
  readonly env: { readonly PATH: string };
}

/** The clients for Python. @param version E2B's version @throws as `lockedPython` */
export const clientsForPython = (version: ClientVersion = 'newest'): PythonPackages =>
  lockedPython(`clients-python-${version}`, join(clientsDir(version), 'requirements.lock'));

/**
 * The clients for Node.js. @param version E2B's version @returns a directory with `node_modules` @throws as
 * `lockedNode`
 */
export const clientsForNode = (version: ClientVersion = 'newest'): string =>
  lockedNode(`clients-node-${version}`, clientsDir(version));

const clientsDir = (version: ClientVersion): string =>
  version === 'newest' ? CLIENTS_DIR : join(CLIENTS_DIR, `e2b-${version}`);

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

/**
 * The directory that `install` has filled for these lock files, now or in an earlier run. Other processes that need it
 * wait meanwhile.
 */
export function installed(name: string, locks: readonly string[], install: (target: string) => void): string {
  const hash = createHash('sha256');
  for (const lock of locks) hash.update(readFileSync(lock));
  const digest = hash.digest('hex').slice(0, 16);
  const dir = join(testCacheDir('test-api-clients'), `${name}-${digest}`);
  if (existsSync(dir)) return dir;
  const lock = openSync(`${dir}.lock`, 'a', 0o600);
  try {
    waitForLock(lock, dir);
    if (existsSync(dir)) return dir;
    // Left behind by an interrupted run.
    const part = `${dir}.part`;
    rmSync(part, { recursive: true, force: true });
    try {
      mkdirSync(part, { mode: 0o700 });
      install(part);
      renameSync(part, dir);
    } finally {
      rmSync(part, { recursive: true, force: true });
    }
    return dir;
  } finally {
    closeSync(lock);
  }
}

/** Blocks the thread: packages are requested while a test file loads. */
function waitForLock(lock: number, dir: string): void {
  const sleeper = new Int32Array(new SharedArrayBuffer(4));
  for (let waitedMs = 0; !tryLockExclusive(lock); waitedMs += LOCK_POLL_MS) {
    if (waitedMs >= INSTALL_MS_MAX) throw new Error(`another process still installs ${dir}`);
    Atomics.wait(sleeper, 0, 0, LOCK_POLL_MS);
  }
}

export function run(program: string, args: readonly string[], cwd?: string): string {
  const options = { cwd, stdio: 'pipe', timeout: INSTALL_MS_MAX, encoding: 'utf8' } as const;
  return execFileSync(program, args, options);
}
