/** This package: its folder, version and commit, for records and messages. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { tryOr } from './ignore.ts';

/**
 * The folder with `package.json`: a checkout or the installed npm package. It has everything that is no module:
 * policies, the image's recipe, programs of the guest. Compiled modules are one folder deeper below it than sources.
 */
export const PACKAGE_DIR = packageDir(import.meta.dirname);

function packageDir(dir: string): string {
  return existsSync(join(dir, 'package.json')) ? dir : packageDir(dirname(dir));
}

/** File of the npm package with the commit that it was built from. */
export const COMMIT_FILE = 'dist/commit';

export interface Product {
  /** As in `package.json`. */
  readonly version: string;
  /** The first 8 digits; `null` if this is neither a checkout nor a package built from one. */
  readonly commit: string | null;
}

export function productOf(dir: string): Product {
  const { version } = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8')) as { version: string };
  return { version, commit: commitOf(dir) };
}

let here: Product | undefined;

/** `0.2.0 (7b82c4f4)`. A process has one name for its whole life, also if its checkout changes. */
export function productName(product?: Product): string {
  here ??= productOf(PACKAGE_DIR);
  const { version, commit } = product ?? here;
  return commit === null ? version : `${version} (${commit})`;
}

/** Reads git's files, since git need not be installed (gitrepository-layout(5)). */
function commitOf(dir: string): string | null {
  return tryOr(null, 'no commit is known', () => {
    const text = existsSync(join(dir, '.git')) ? headOf(gitDirOf(dir)) : readFileSync(join(dir, COMMIT_FILE), 'utf8');
    return /^[0-9a-f]{8}/.exec(text)?.[0] ?? null;
  });
}

/** In a work tree, `.git` is a file that names the directory. */
function gitDirOf(dir: string): string {
  const path = join(dir, '.git');
  if (statSync(path).isDirectory()) return path;
  return resolve(
    dir,
    readFileSync(path, 'utf8')
      .trim()
      .replace(/^gitdir: /, ''),
  );
}

function headOf(gitDir: string): string {
  const head = readFileSync(join(gitDir, 'HEAD'), 'utf8').trim();
  const name = /^ref: (refs\/.+)$/.exec(head)?.[1];
  if (name === undefined) return head;
  // Branches of a work tree are in the repository's own directory.
  const common = join(gitDir, 'commondir');
  const shared = existsSync(common) ? resolve(gitDir, readFileSync(common, 'utf8').trim()) : gitDir;
  const loose = join(shared, name);
  if (existsSync(loose)) return readFileSync(loose, 'utf8');
  const packed = readFileSync(join(shared, 'packed-refs'), 'utf8').split('\n');
  return packed.find((line) => line.endsWith(` ${name}`)) ?? '';
}
