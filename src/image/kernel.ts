/**
 * The guest kernel: `kernel/guest.config` over `allnoconfig`, built from the distribution's kernel source.
 * The result is a stripped ELF `vmlinux` that starts by PVH, and the final configuration beside it.
 */
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../base/clock.ts';
import { MIB } from '../base/units.ts';
import { ImageError } from './errors.ts';
import {
  configViolations,
  parseDenied,
  parseKernelConfig,
  parseOptional,
} from './kernel-config.ts';
import { describeSource, findKernelSource, type KernelSource } from './kernel-source.ts';
import { type Job, type PrepareContext, prepareArtifact, type Recipe } from './prepare.ts';
import { runTool } from './tool.ts';
import { digestBytes, digestFile } from './verify.ts';

const kernelManifestSchema = z.object({
  /** Package of the source. */
  sourcePackage: z.string(),
  sourceVersion: z.string(),
  sourceSha256: z.string(),
  /** Version of the kernel, e.g. `6.1.192`. */
  kernelVersion: z.string(),
  /** SHA-256 of the configuration fragment. */
  fragmentSha256: z.string(),
  compiler: z.string(),
  buildSeconds: z.number(),
});
export type KernelManifest = z.infer<typeof kernelManifestSchema>;

/** Increment when the steps below change the result. */
const RECIPE_VERSION = 1;
const ESTIMATE_MS = 250_000;
const SPACE_BYTES = 1100 * MIB;
/** Lines that kbuild prints for this configuration (Linux 6.1); used only for the progress bar. */
const BUILD_LINES_EXPECTED = 1640;
/** Share of the time that unpacking and configuring take. */
const SETUP_FRACTION = 0.06;

/** Settings without which the result would depend on date and machine. */
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

/** @throws ImageError */
export async function prepareKernel(
  context: PrepareContext,
): Promise<{ path: string; digest: string; manifest: KernelManifest }> {
  const artifact = await prepareArtifact(context, await kernelRecipe(context.sourceDir));
  const vmlinux = artifact.files.get('vmlinux');
  if (vmlinux === undefined) throw new ImageError('result_invalid', 'the kernel has no vmlinux');
  return { path: vmlinux.path, digest: vmlinux.sha256, manifest: artifact.details };
}

export async function kernelRecipe(sourceDir: string): Promise<Recipe<KernelManifest>> {
  const fragmentPath = join(sourceDir, 'kernel', 'guest.config');
  const fragment = await readFile(fragmentPath, 'utf8');
  const denied = await readFile(join(sourceDir, 'kernel', 'deny.txt'), 'utf8');
  const source = await findKernelSource();
  if (source === undefined) {
    throw new ImageError('source_invalid', 'no kernel source in /usr/src', {
      remedy: 'Install the package linux-source (Debian: linux-source-6.1).',
    });
  }
  // Only the options, so that a changed comment does not cost a build of four minutes.
  const options = [...parseKernelConfig(fragment)].map((pair) => pair.join('=')).sort();
  const inputs = [options, [...parseOptional(fragment)], parseDenied(denied)].map(String);
  return {
    kind: 'kernel',
    title: 'Build the guest kernel',
    estimateMs: ESTIMATE_MS,
    key: digestBytes(`kernel ${RECIPE_VERSION}`, ...inputs, source.identity),
    files: ['vmlinux', 'config'],
    spaceBytes: SPACE_BYTES,
    details: kernelManifestSchema,
    build: (job) => buildKernel(job, { source, fragmentPath, fragment, denied }),
  };
}

interface KernelInputs {
  readonly source: KernelSource;
  readonly fragmentPath: string;
  readonly fragment: string;
  readonly denied: string;
}

async function buildKernel(job: Job, inputs: KernelInputs): Promise<KernelManifest> {
  const startedAtMs = systemClock.now();
  const { source } = inputs;
  const { signal, scratchDir: tree } = job;
  job.report(0, 'unpack the source');
  const excludes = UNPACK_EXCLUDES.map((pattern) => `--exclude=${pattern}`);
  await runTool(
    'tar',
    ['-x', '-f', source.path, '-C', tree, '--strip-components=1', '--no-same-owner', ...excludes],
    { signal },
  );
  job.report(SETUP_FRACTION / 2, 'configure');
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
    if (seen !== undefined) {
      job.report(SETUP_FRACTION + (1 - SETUP_FRACTION) * seen.fraction, seen.detail);
    }
  });
  await runTool('strip', ['-o', join(job.outDir, 'vmlinux'), join(tree, 'vmlinux')], { signal });
  await runTool('cp', [join(tree, '.config'), join(job.outDir, 'config')], { signal });

  const owner = await describeSource(source, signal);
  const compiler = await runTool('gcc', ['-dumpfullversion'], { signal });
  return {
    sourcePackage: owner.name,
    sourceVersion: owner.version,
    sourceSha256: await digestFile(source.path, signal),
    kernelVersion: lastLine(await make(['-s', 'kernelversion'])),
    fragmentSha256: await digestFile(inputs.fragmentPath),
    compiler: `gcc ${compiler.trim()}`,
    buildSeconds: Math.round((systemClock.now() - startedAtMs) / 1000),
  };
}

async function checkConfig(path: string, inputs: KernelInputs): Promise<void> {
  const wrong = configViolations(inputs.fragment, inputs.denied, await readFile(path, 'utf8'));
  if (wrong.length === 0) return;
  throw new ImageError('source_invalid', 'configure the guest kernel', {
    cause: new Error(wrong.join('; ')),
    remedy: "Use Debian's linux-source-6.1; this kernel source does not fit kernel/guest.config.",
  });
}

/** Counts kbuild's lines (`  CC      kernel/fork.o`). */
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
    return {
      fraction: Math.min(this.#lines / this.#expected, 0.99),
      detail: `${match[1]} ${match[2]}`,
    };
  }
}

const lastLine = (text: string): string =>
  text
    .split('\n')
    .filter((line) => !line.startsWith('make'))
    .at(-1)
    ?.trim() ?? '';
