/**
 * Generators of clients, and what their clients need, each pinned by a lock file in `test/fixtures/api-clients`. They
 * come from the registries of their languages into the cache of the home, once per lock file.
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
import { join } from 'node:path';

export const CLIENTS_DIR = join(import.meta.dirname, '../fixtures/api-clients');
/** Of the lock file's wheels. */
const PYTHON = '3.11';
const GENERATOR = 'github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen';
const INSTALL_MS_MAX = 300_000;

export interface PythonPackages {
  /** Of an environment with the packages; for `python -m NAME`, since its scripts have another path in them. */
  readonly python: string;
  /** With the programs of the packages. */
  readonly env: { readonly PATH: string };
}

/** Packages for Python, or why there are none. */
export const pythonPackages = (): PythonPackages | string =>
  orReason(() => {
    const python = findPython();
    const lock = join(CLIENTS_DIR, 'python/requirements.lock');
    const dir = installed('python', [lock], (target) => {
      const pip = ['install', '-q', '--require-hashes', '--no-deps'];
      const quiet = ['--no-input', '--disable-pip-version-check', '--no-cache-dir', '--no-compile'];
      const only = ['--only-binary=:all:', '--root-user-action=ignore'];
      run(python, ['-m', 'venv', '--without-pip', target]);
      const into = ['-m', 'pip', '--python', join(target, 'bin/python'), ...pip];
      run(python, [...into, ...quiet, ...only, '-r', lock]);
    });
    const bin = join(dir, 'bin');
    return { python: join(bin, 'python'), env: { PATH: `${bin}:${process.env['PATH']}` } };
  });

/** A directory with `node_modules`, or why there is none. */
export const nodePackages = (): string | { readonly dir: string } =>
  orReason(() => {
    const files = ['package.json', 'package-lock.json'].map((name) =>
      join(CLIENTS_DIR, 'typescript', name),
    );
    const dir = installed('typescript', files, (target) => {
      for (const file of files) cpSync(file, join(target, file.slice(file.lastIndexOf('/') + 1)));
      run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--silent'], target);
    });
    return { dir };
  });

/** The generator for Go, or why there is none. */
export const goGenerator = (): string | { readonly generator: string } =>
  orReason(() => {
    const files = ['go.mod', 'go.sum'].map((name) => join(CLIENTS_DIR, 'go', name));
    const dir = installed('go', files, (target) => {
      const module = join(target, 'module');
      cpSync(join(CLIENTS_DIR, 'go'), module, { recursive: true });
      run('go', ['build', '-o', join(target, 'oapi-codegen'), GENERATOR], module);
    });
    return { generator: join(dir, 'oapi-codegen') };
  });

function orReason<T>(find: () => T): T | string {
  try {
    return find();
  } catch (error) {
    return error instanceof Error ? error.message.split('\n', 1).join('') : String(error);
  }
}

function findPython(): string {
  const version = 'import sys, pip; print("%d.%d" % sys.version_info[:2])';
  for (const python of ['python3', `python${PYTHON}`, `/usr/bin/python${PYTHON}`]) {
    const found = orReason(() => run(python, ['-c', version]).trim());
    if (found === PYTHON) return python;
  }
  throw new Error(`there is no Python ${PYTHON} with pip`);
}

/** The directory that `install` has filled for these lock files, now or in an earlier run. */
function installed(
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

function run(program: string, args: readonly string[], cwd?: string): string {
  const options = { cwd, stdio: 'pipe', timeout: INSTALL_MS_MAX, encoding: 'utf8' } as const;
  return execFileSync(program, args, options);
}
