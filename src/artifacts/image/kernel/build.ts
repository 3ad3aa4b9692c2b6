/**
 * Builds the guest kernel: `kernel/guest.config` over `allnoconfig`. The result is a stripped ELF `vmlinux` that starts
 * by PVH, with the final configuration beside it. Equal sources, configuration and tools give equal bytes in any
 * directory.
 */
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { ImageError } from '../errors.ts';
import type { Job } from '../prepare.ts';
import { firstLineOf, runTool } from '../tool.ts';
import { digestFile } from '../verify.ts';
import { configViolations } from './config.ts';
import { describeSource, type KernelSource } from './source.ts';

/** Increment when the steps below change the result. */
export const RECIPE_VERSION = 1;
/** Lines that kbuild prints for this configuration (Linux 6.12); used only for the progress bar. */
const BUILD_LINES_EXPECTED = 1640;

/** Without these settings, the result would depend on date and machine. */
const REPRODUCIBLE = {
  KBUILD_BUILD_TIMESTAMP: '2026-01-01',
  KBUILD_BUILD_USER: 'neurovisor',
  KBUILD_BUILD_HOST: 'neurovisor',
  KBUILD_BUILD_VERSION: '1',
};

/** Files of the tarball that are not compiled: half of its size and unpacking time. */
const UNPACK_EXCLUDES = [
  '*.rst',
  '*.yaml',
  '*.dts',
  '*.dtsi',
  '*/drivers/gpu/*.[ch]',
  '*/drivers/media/*.[ch]',
  '*/drivers/net/ethernet/*.[ch]',
  '*/drivers/net/wireless/*.[ch]',
  '*/sound/*.[ch]',
  '*/tools/testing/*',
];

export interface KernelInputs {
  /** Path of `kernel/guest.config`, and its text. */
  readonly fragmentPath: string;
  readonly fragment: string;
  readonly denied: string;
  /** Digest of everything that the build takes from the checkout. */
  readonly digest: string;
}

export interface BuiltKernel {
  readonly source: { readonly package: string; readonly version: string; readonly sha256: string };
  readonly kernelVersion: string;
  readonly tools: Record<string, string>;
}

/** @throws ImageError */
export async function buildKernel(job: Job, inputs: KernelInputs, source: KernelSource): Promise<BuiltKernel> {
  const { signal, scratchDir: tree } = job;
  job.report('unpack the source');
  const excludes = UNPACK_EXCLUDES.map((pattern) => `--exclude=${pattern}`);
  await runTool('tar', ['-x', '-f', source.path, '-C', tree, '--strip-components=1', '--no-same-owner', ...excludes], {
    signal,
  });
  job.report('configure');
  const make = (args: readonly string[], onLine?: (line: string) => void): Promise<string> =>
    runTool('make', ['-C', tree, 'ARCH=x86_64', ...args], {
      signal,
      env: REPRODUCIBLE,
      ...(onLine === undefined ? {} : { onLine }),
    });
  await make([`KCONFIG_ALLCONFIG=${inputs.fragmentPath}`, 'allnoconfig']);
  await checkConfig(join(tree, '.config'), inputs);

  const counter = new BuildCounter(BUILD_LINES_EXPECTED);
  await make([`-j${availableParallelism() + 1}`, 'vmlinux'], (line) => {
    const seen = counter.line(line);
    if (seen !== undefined) job.report(seen.detail, seen.fraction);
  });
  await runTool('strip', ['-o', join(job.outDir, 'vmlinux'), join(tree, 'vmlinux')], { signal });
  await runTool('cp', [join(tree, '.config'), join(job.outDir, 'config')], { signal });

  const owner = await describeSource(source, signal);
  return {
    source: { package: owner.name, version: owner.version, sha256: await digestFile(source.path, signal) },
    kernelVersion: lastLine(await make(['-s', 'kernelversion'])),
    tools: await kernelTools(signal),
  };
}

/** The tools whose version changes the result: the kernel names them in its banner. */
export async function kernelTools(signal?: AbortSignal): Promise<Record<string, string>> {
  return { gcc: await firstLineOf('gcc', ['--version'], signal), ld: await firstLineOf('ld', ['--version'], signal) };
}

async function checkConfig(path: string, inputs: KernelInputs): Promise<void> {
  const wrong = configViolations(inputs.fragment, inputs.denied, await readFile(path, 'utf8'));
  if (wrong.length === 0) return;
  throw new ImageError('source_invalid', 'configure the guest kernel', {
    cause: new Error(wrong.join('; ')),
    remedy: "Use Debian's linux-source-6.12; this kernel source does not fit kernel/guest.config.",
  });
}

export class BuildCounter {
  #lines = 0;
  readonly #expected: number;

  constructor(expectedLines: number) {
    this.#expected = expectedLines;
  }

  /** Undefined for a line that is not a build step. The fraction stays below 1. */
  line(text: string): { fraction: number; detail: string } | undefined {
    const match = /^ {2}([A-Z]+) +(\S+)/.exec(text);
    if (match === null) return undefined;
    this.#lines += 1;
    return { fraction: Math.min(this.#lines / this.#expected, 0.99), detail: `${match[1]} ${match[2]}` };
  }
}

const lastLine = (text: string): string =>
  text
    .split('\n')
    .filter((line) => !line.startsWith('make'))
    .at(-1)
    ?.trim() ?? '';
