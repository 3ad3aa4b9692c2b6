/** Seccomp profiles in files: reads, explains, compiles, and proposes them from a program's system calls. */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { JailError } from '../../src/machine/jail/errors.ts';
import { compileProfile } from '../../src/machine/jail/seccomp/compile.ts';
import { firecrackerFilter } from '../../src/machine/jail/seccomp/firecracker-filter.ts';
import { type Mode, type Profile, parseProfile, withMode } from '../../src/machine/jail/seccomp/profile.ts';
import { ARCHITECTURES, type Architecture } from '../../src/machine/jail/seccomp/syscalls.ts';
import { disassemble } from './disassemble.ts';
import { type ExplainedThread, explainProfile } from './explain.ts';
import { type ProposedThread, proposeProfile } from './learn.ts';
import { type Since, STRACE, tracedCalls } from './strace.ts';

export type { Architecture, ExplainedThread, ProposedThread, Since };
export { ARCHITECTURES, JailError };

export const hostArchitecture = (): Architecture => (process.arch === 'arm64' ? 'aarch64' : 'x86_64');

/** @throws JailError `profile_invalid`; a Node error if the file can't be read */
export async function readProfile(path: string): Promise<Profile> {
  return parseProfile(await readFile(path, 'utf8'));
}

/** @throws JailError */
export async function explainFile(path: string, arch: Architecture): Promise<ExplainedThread[]> {
  return explainProfile(await readProfile(path), arch);
}

/** @throws JailError `profile_invalid`, `profile_too_large`, `thread_unknown` */
export async function listProgram(path: string, thread: string | undefined, arch: Architecture): Promise<string[]> {
  return disassemble(compileProfile(chosen(await readProfile(path), thread), arch).program);
}

export interface CompileOptions {
  readonly arch: Architecture;
  readonly mode: Mode;
  /** `raw`: the BPF instructions of one thread; `bitcode`: a file for Firecracker's `--seccomp-filter`. */
  readonly format: 'raw' | 'bitcode';
  /** For `raw`, if a profile has several. */
  readonly thread?: string | undefined;
}

/** Returns the number of bytes written. @throws JailError; a Node error for a file */
export async function compileFile(
  path: string,
  out: string,
  { arch, mode, format, thread }: CompileOptions,
): Promise<number> {
  const read = await readProfile(path);
  const profile = new Map([...read].map(([name, filter]) => [name, withMode(filter, mode)]));
  const bytes =
    format === 'raw' ? compileProfile(chosen(profile, thread), arch).program : firecrackerFilter(profile, arch);
  await writeFile(out, bytes);
  return bytes.length;
}

function chosen(profile: Profile, thread: string | undefined) {
  const names = [...profile.keys()];
  const name = thread ?? (names.length === 1 ? names[0] : undefined);
  const filter = name === undefined ? undefined : profile.get(name);
  if (filter !== undefined) return filter;
  const asked = thread === undefined ? 'it has several threads' : `no thread "${thread}"`;
  throw new JailError('thread_unknown', `seccomp profile: ${asked}`, { remedy: `Name one of ${names.join(', ')}.` });
}

/** Maps thread names of Firecracker to filter names; unknown names are its main thread. */
function firecrackerThread(name: string): string {
  if (name === 'fc_api') return 'api';
  return name.startsWith('fc_vcpu') ? 'vcpu' : 'vmm';
}

export interface LearnOptions {
  readonly since: Since;
  /** Name of the filter; `firecracker`: one filter for each of its three threads. */
  readonly thread: string;
}

/**
 * @param traces output files of `STRACE`
 * @throws JailError `strace_failed`: no call was traced
 */
export async function learnFromTraces(
  traces: readonly string[],
  { since, thread }: LearnOptions,
): Promise<Record<string, ProposedThread>> {
  const texts = await Promise.all(traces.map((path) => readFile(path, 'latin1')));
  const filterOf = thread === 'firecracker' ? firecrackerThread : () => thread;
  const calls = tracedCalls(texts, since);
  if (calls.length > 0) return proposeProfile(calls, filterOf);
  const what = since === 'filter' ? 'a filter is installed' : 'a program is started';
  throw new JailError('strace_failed', `the traces have no call after ${what}`, {
    remedy: 'Check that the program runs without strace, and trace all its threads (-f).',
  });
}

/**
 * Runs a program to its end under strace; its output goes to our stderr.
 * @throws JailError `strace_failed`: strace is not installed, or cannot start the program
 */
export async function learnFromRun(
  argv: readonly string[],
  options: LearnOptions,
  signal: AbortSignal,
): Promise<Record<string, ProposedThread>> {
  const directory = await mkdtemp(join(tmpdir(), 'nv-learn-'));
  try {
    const trace = join(directory, 'trace');
    const [strace, ...words] = STRACE;
    const child = spawn(strace, [...words, trace, '--', ...argv], {
      // Stdout is for the profile.
      stdio: ['inherit', 2, 2],
      signal,
    });
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', () => resolve());
    });
    return await learnFromTraces([trace], options);
  } catch (cause) {
    signal.throwIfAborted();
    if (cause instanceof JailError) throw cause;
    throw new JailError('strace_failed', `trace ${argv[0]} with strace`, {
      cause,
      remedy: 'Install strace, and check that the program runs without it.',
    });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
