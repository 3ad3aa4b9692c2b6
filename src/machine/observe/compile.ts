/**
 * Finds the objects of the programs in `bpf/` (I/O): the repository's prebuilt ones in `bpf/prebuilt/`, if they match the
 * sources; otherwise clang compiles on this machine, and the objects are cached. Equal sources, options and clang give
 * equal bytes, independent of the repository's path.
 *
 *     <dir>/<program>.<digest of sources and options>.<digest of the compiler>.o
 *
 * Without a compiler, an object that another compiler made from the same sources is used.
 */

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { errorCode } from '../../base/errors.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { ObserveError } from './errors.ts';
import { shippedObject } from './shipped.ts';

const run = promisify(execFile);

export const PROGRAMS = ['latency', 'processes', 'syscalls'] as const;
export type ProgramName = (typeof PROGRAMS)[number];

export const SOURCE_DIR = join(PACKAGE_DIR, 'bpf');
/**
 * v3 of the instruction set: Linux 5.12. Paths in the object are relative, so that it does not depend on this machine.
 */
const OPTIONS = [
  '-target',
  'bpf',
  '-mcpu=v3',
  '-O2',
  '-g',
  '-Wall',
  '-Wextra',
  '-Wno-unused-parameter',
  '-Werror',
  '-fdebug-compilation-dir=.',
  '-fno-ident',
  '-nostdlibinc',
  '-idirafter',
  '/usr/include',
];
const COMPILE_TIME_MS_MAX = 60_000;
/** Length of a digest in the name of a cached object. */
const NAME_CHARS = 16;

export interface CompileOptions {
  /** Directory of the objects; created if missing. */
  readonly dir: string;
  /** Looked up in PATH. */
  readonly compiler?: string;
  readonly sourceDir?: string;
}

/**
 * @returns path of the object
 * @throws ObserveError `no_compiler`, `compile_failed`
 */
export async function objectOf(program: ProgramName, options: CompileOptions): Promise<string> {
  const { dir, compiler = 'clang', sourceDir = SOURCE_DIR } = options;
  const sources = await digestOfSources(sourceDir);
  const shipped = await shippedObject(program, sourceDir, sources);
  if (shipped?.path !== undefined) return shipped.path;
  const prefix = `${program}.${sources.slice(0, NAME_CHARS)}.`;
  await mkdir(dir, { recursive: true });
  const kept = (await readdir(dir)).filter((name) => name.startsWith(prefix) && name.endsWith('.o'));
  const version = await versionOf(compiler);
  if (version === undefined) {
    const [first] = kept;
    if (first === undefined) throw noCompiler(program, compiler, shipped?.damage);
    return join(dir, first);
  }
  const name = `${prefix}${digest([version]).slice(0, NAME_CHARS)}.o`;
  const path = join(dir, name);
  if (!kept.includes(name)) await compile(compiler, sourceDir, program, path);
  return path;
}

/** @throws ObserveError `compile_failed` */
export async function compile(compiler: string, cwd: string, program: ProgramName, path: string): Promise<void> {
  // Two processes may compile at once; each finds a complete object.
  const fresh = `${path}.${process.pid}`;
  const args = [...OPTIONS, '-c', `${program}.bpf.c`, '-o', fresh];
  try {
    await run(compiler, args, { cwd, timeout: COMPILE_TIME_MS_MAX });
    await rename(fresh, path);
  } catch (cause) {
    const remedy = 'Install clang, libbpf-dev (Debian, Ubuntu: apt-get install clang libbpf-dev).';
    throw new ObserveError('compile_failed', `could not compile bpf/${program}.bpf.c`, { cause, remedy });
  } finally {
    await rm(fresh, { force: true });
  }
}

/** Digest of all sources and the options, hexadecimal. */
export async function digestOfSources(dir: string): Promise<string> {
  const names = (await readdir(dir)).filter((name) => /\.[ch]$/.test(name)).sort();
  const texts = await Promise.all(names.map((name) => readFile(join(dir, name), 'utf8')));
  return digest([...OPTIONS, ...names, ...texts]);
}

/** @returns undefined if it is not installed */
async function versionOf(compiler: string): Promise<string | undefined> {
  try {
    const { stdout } = await run(compiler, ['--version'], { timeout: COMPILE_TIME_MS_MAX });
    return stdout;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw new ObserveError('compile_failed', `could not read the version of ${compiler}`, { cause: error });
  }
}

/** @param damage damage of the object in `bpf/prebuilt/`; undefined if none matches the sources */
function noCompiler(program: ProgramName, compiler: string, damage?: string): ObserveError {
  const shipped = damage ?? 'no object in bpf/prebuilt/ fits the sources';
  return new ObserveError(
    'no_compiler',
    `could not compile bpf/${program}.bpf.c: ${compiler} is not installed, and ${shipped}`,
    { remedy: 'Install clang and libbpf-dev (Debian, Ubuntu: apt-get install clang libbpf-dev).' },
  );
}

function digest(parts: readonly string[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return hash.digest('hex');
}
