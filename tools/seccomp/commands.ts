/** `neurovisor seccomp`: checks, explains, compiles and generates profiles. */
import { styleText } from 'node:util';
import { describeError } from '../../src/base/errors.ts';
import type { Cli } from '../../src/cli/cli.ts';
import { UsageError } from '../../src/cli/failure.ts';
import { bytes, table } from '../../src/cli/output/table.ts';
import { requireProgram } from './host-program.ts';
import { namedFile } from './named-file.ts';
import {
  ARCHITECTURES,
  type Architecture,
  compileFile,
  type ExplainedThread,
  explainFile,
  hostArchitecture,
  JailError,
  learnFromRun,
  learnFromTraces,
  listProgram,
  type Since,
} from './profiles.ts';

/** Firecracker 1.14 and older read another encoding, and no sandbox runs in them. */
const FIRECRACKER_MINOR_MIN = 15;

interface ArchFlags {
  readonly arch?: string;
}

export interface CompileFlags extends ArchFlags {
  readonly out: string;
  readonly thread?: string;
  readonly firecracker?: string;
  readonly mode: 'enforce' | 'log';
}

export interface ReachFlags {
  readonly calls?: boolean;
}

export interface LearnFlags {
  readonly traces?: boolean;
  readonly thread: string;
  readonly since: 'exec' | 'filter';
  readonly program?: string;
}

/** @returns 1 if a profile is invalid */
export async function seccompCheck(cli: Cli, files: readonly string[], flags: ArchFlags): Promise<number> {
  const arch = architecture(flags);
  const results = await Promise.all(
    files.map(async (file) => {
      try {
        return { file, error: null, threads: await explainFile(file, arch) };
      } catch (error) {
        return { file, error: describeError(error), threads: [] };
      }
    }),
  );
  const status = results.every(({ error }) => error === null) ? 0 : 1;
  if (cli.json) {
    const brief = ({ rules, ...rest }: ExplainedThread) => ({ ...rest, rules: rules.length });
    cli.printJson(results.map((one) => ({ ...one, threads: one.threads.map(brief) })));
    return status;
  }
  for (const { file, error, threads } of results) {
    if (error !== null) cli.stdout.write(`${styleText('red', 'bad')}  ${file}: ${error}\n`);
    for (const one of threads) {
      cli.stdout.write(`${styleText('green', 'ok')}   ${file}: ${size(one)}\n`);
      for (const line of one.redundant) cli.stdout.write(`     redundant: ${line}\n`);
    }
  }
  return status;
}

export async function seccompExplain(
  cli: Cli,
  file: string,
  thread: string | undefined,
  flags: ArchFlags & { readonly program?: boolean },
): Promise<number> {
  const arch = architecture(flags);
  if (flags.program) {
    const lines = await orUsageError(listProgram(file, thread, arch));
    if (cli.json) cli.printJson(lines);
    else cli.stdout.write(lines.map((line, at) => `${String(at).padStart(4)}  ${line}\n`).join(''));
    return 0;
  }
  const threads = await orUsageError(explainFile(file, arch));
  const shown = threads.filter((one) => thread === undefined || one.thread === thread);
  if (shown.length === 0) {
    const names = threads.map((one) => one.thread).join(', ');
    throw new UsageError(`unknown thread "${thread}" in the profile`, `use one of: ${names}`);
  }
  if (cli.json) cli.printJson(shown);
  else cli.stdout.write(`${shown.map(describeThread).join('\n\n')}\n`);
  return 0;
}

export async function seccompCompile(cli: Cli, file: string, flags: CompileFlags): Promise<number> {
  const { out, thread, firecracker, mode } = flags;
  if (firecracker !== undefined) checkVersion(firecracker);
  const format = firecracker === undefined ? 'raw' : 'bitcode';
  if (format !== 'raw' && thread !== undefined)
    throw new UsageError(
      '--firecracker and --thread are mutually exclusive',
      'omit --thread: the file contains all threads',
    );
  const arch = architecture(flags);
  const written = await orUsageError(compileFile(file, out, { arch, mode, format, thread }));
  if (cli.json) cli.printJson({ path: out, bytes: written, format, arch, mode });
  else cli.stdout.write(`${out}: ${bytes(written)}, ${format}, ${arch}, ${mode}\n`);
  return 0;
}

export async function seccompLearn(
  cli: Cli,
  words: readonly string[],
  { traces, thread, since: from, program }: LearnFlags,
): Promise<number> {
  const since: Since = program === undefined ? from : { program };
  const options = { thread, since };
  if (traces) {
    cli.printJson(await orUsageError(learnFromTraces(words, options)));
    return 0;
  }
  await requireProgram(words[0] ?? '', cli.env['PATH']);
  cli.printJson(await learnFromRun(words, options, cli.cancelled));
  return 0;
}

export async function seccompReach(cli: Cli, { calls = false }: ReachFlags): Promise<number> {
  const { reachOfVmm } = await import('./reach-vmm.ts');
  const threads = await reachOfVmm({ config: cli.config, log: cli.log });
  if (cli.json) {
    cli.printJson(threads);
    return 0;
  }
  const rows = threads.map(({ vmm, thread, filters, always, conditional }) => [
    vmm,
    thread,
    `${filters}`,
    `${always.length + conditional.length}`,
    `${conditional.length}`,
  ]);
  const head = ['vmm', 'thread', 'filters', 'allowed calls', 'conditional'];
  cli.stdout.write(`${table(head, rows)}\n`);
  if (!calls) return 0;
  for (const { thread, always, conditional } of threads) {
    cli.stdout.write(`\n${thread}, always: ${always.join(' ')}\n`);
    cli.stdout.write(`${thread}, conditional: ${conditional.join(' ')}\n`);
  }
  return 0;
}

/** @throws UsageError for a missing file or an unknown thread */
async function orUsageError<T>(work: Promise<T>): Promise<T> {
  try {
    return await namedFile(work);
  } catch (error) {
    if (!(error instanceof JailError) || error.code !== 'thread_unknown') throw error;
    throw new UsageError(error.message, error.remedy);
  }
}

function describeThread(one: ExplainedThread): string {
  const rows = one.rules.map(({ syscall, number, when, action, comment }) => [
    `${number}`,
    syscall,
    when.length === 0 ? 'always' : when.join(' and '),
    action,
    comment ?? '',
  ]);
  return `${size(one)}\n${table(['no', 'syscall', 'when', 'action', 'needed by'], rows)}`;
}

const size = ({ thread, syscalls, rules, instructions, stepsMax, otherwise }: ExplainedThread) =>
  `thread ${thread}: ${syscalls} system calls in ${rules.length} rules, all others ${otherwise}; ` +
  `${instructions} instructions, at most ${stepsMax} per call`;

function architecture({ arch }: ArchFlags): Architecture {
  return ARCHITECTURES.find((name) => name === arch) ?? hostArchitecture();
}

/** @throws UsageError for a version that does not read our encoding */
function checkVersion(version: string): void {
  const [, minor] = /^1\.(\d+)(\.|$)/.exec(version) ?? [];
  if (Number(minor) >= FIRECRACKER_MINOR_MIN) return;
  const what = /^\d+\.\d/.test(version) ? `unsupported version ${version}` : `invalid version "${version}"`;
  throw new UsageError(`--firecracker: ${what}`, 'use 1.15 or newer, 1.x, for example 1.16.1');
}
