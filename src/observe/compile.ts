/**
 * Objects of `bpf/`, compiled on this machine and kept (io). The same sources, options and clang give the same
 * bytes, wherever the repository lies.
 *
 *     <dir>/<program>.<digest of sources and options>.<digest of the compiler>.o
 *
 * Without a compiler, what another one has made of the same sources is taken.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { errorCode } from '../base/errors.ts';
import { ObserveError } from './errors.ts';

const run = promisify(execFile);

export const PROGRAMS = ['latency', 'processes', 'syscalls'] as const;
type ProgramName = (typeof PROGRAMS)[number];

const SOURCE_DIR = new URL('../../bpf/', import.meta.url).pathname;
/** v3 of the instruction set: Linux 5.12. Paths in the object are relative, so that they say nothing of this machine. */
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

export interface CompileOptions {
  /** Where objects are kept; made if it is not there. */
  readonly dir: string;
  /** Found by PATH. */
  readonly compiler?: string;
  readonly sourceDir?: string;
}

/**
 * @returns path of the object
 * @throws ObserveError `no_compiler`, `compile_failed`
 */
export async function objectOf(program: ProgramName, options: CompileOptions): Promise<string> {
  const { dir, compiler = 'clang', sourceDir = SOURCE_DIR } = options;
  const prefix = `${program}.${await digestOfSources(sourceDir)}.`;
  await mkdir(dir, { recursive: true });
  const kept = (await readdir(dir)).filter(
    (name) => name.startsWith(prefix) && name.endsWith('.o'),
  );
  const version = await versionOf(compiler);
  if (version === undefined) {
    const [first] = kept;
    if (first === undefined) throw noCompiler(program, compiler);
    return join(dir, first);
  }
  const name = `${prefix}${digest([version])}.o`;
  const path = join(dir, name);
  if (!kept.includes(name)) await compile(compiler, sourceDir, program, path);
  return path;
}

async function compile(compiler: string, cwd: string, program: ProgramName, path: string) {
  // Two processes may do so at once; each finds a whole object.
  const fresh = `${path}.${process.pid}`;
  const args = [...OPTIONS, '-c', `${program}.bpf.c`, '-o', fresh];
  try {
    await run(compiler, args, { cwd, timeout: COMPILE_TIME_MS_MAX });
    await rename(fresh, path);
  } catch (cause) {
    const remedy = 'Install clang, libbpf-dev (Debian, Ubuntu: apt-get install clang libbpf-dev).';
    throw new ObserveError('compile_failed', `compile bpf/${program}.bpf.c`, { cause, remedy });
  } finally {
    await rm(fresh, { force: true });
  }
}

/** Of every file beside it, and how it is compiled. */
async function digestOfSources(dir: string): Promise<string> {
  const names = (await readdir(dir)).filter((name) => /\.[ch]$/.test(name)).sort();
  const texts = await Promise.all(names.map((name) => readFile(join(dir, name), 'utf8')));
  return digest([...OPTIONS, ...names, ...texts]);
}

/** @returns undefined when it is not there */
async function versionOf(compiler: string): Promise<string | undefined> {
  try {
    const { stdout } = await run(compiler, ['--version'], { timeout: COMPILE_TIME_MS_MAX });
    return stdout;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw new ObserveError('compile_failed', `ask ${compiler} for its version`, { cause: error });
  }
}

function noCompiler(program: ProgramName, compiler: string): ObserveError {
  return new ObserveError(
    'no_compiler',
    `compile bpf/${program}.bpf.c: there is no ${compiler}, and no object that was made before`,
    { remedy: 'Install clang and libbpf-dev (Debian, Ubuntu: apt-get install clang libbpf-dev).' },
  );
}

function digest(parts: readonly string[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return hash.digest('hex').slice(0, 16);
}
