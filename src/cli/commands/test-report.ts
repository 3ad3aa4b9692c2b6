/**
 * Vitest's part of `neurovisor test`: its layers, what failed in them, and once more what failed. A test
 * that fails beside others and passes alone is a bug of the test or of the product all the same: it is
 * told at the end of the output with its first failure, so that nobody has to find it in the middle.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { SOURCE_DIR } from '../../runtime/runtime.ts';
import type { Cli } from '../cli.ts';
import { tool } from './test-tool.ts';

/** More failures than this in a layer are no accident: nothing is run again. */
const AGAIN_MAX = 3;
/** Characters of a failure's message that the end of the output repeats. */
const MESSAGE_MAX = 1200;
/** As Vitest prints it, in one piece of at most so many characters. */
const STRAY_ERRORS = /Vitest caught \d+ unhandled error/;
const STRAY_ERRORS_LENGTH = 60;
const VITEST_FRAMES = /^ +at .*(?:node_modules\/vitest|new Promise \(<anonymous>\)).*\n?/gm;

/** A test that failed. */
export interface Failure {
  /** Relative to the checkout. */
  readonly file: string;
  /** `suite > test`, as Vitest's --testNamePattern sees it; `null`: the file itself, which has no test to name. */
  readonly test: string | null;
  readonly message: string;
  /** It passed when it was run again, alone; it is counted as passed. */
  readonly passedAgain: boolean;
}

export interface VitestCounts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly failures: readonly Failure[];
}

/** The parts that are read of Vitest's JSON report, which has the shape of Jest's. */
export interface VitestReport {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly {
      readonly ancestorTitles: readonly string[];
      readonly title: string;
      readonly status: string;
      readonly failureMessages?: readonly string[] | null;
    }[];
  }[];
}

/**
 * Real VMs, kernels and processes beside one another, random inputs: a few tests that failed are run once more,
 * each alone.
 */
export async function vitest(cli: Cli, projects: readonly string[]): Promise<VitestCounts> {
  const { status, report, hasStrayErrors } = await run(cli, projects, []);
  const first = failuresOf(report, SOURCE_DIR);
  const counts = countsOf(report);
  // An error outside of any test has no test to count, and none that could pass alone.
  if (hasStrayErrors || (first.length === 0 && status !== 0)) counts.failed += 1;
  if (first.length > AGAIN_MAX) return { ...counts, failures: first };
  const failures: Failure[] = [];
  for (const failure of first) {
    cli.cancelled.throwIfAborted();
    const again = await runAgain(cli, projects, failure);
    const passedAgain = again.failed === 0 && again.passed > 0;
    failures.push({ ...failure, passedAgain });
    if (!passedAgain) continue;
    counts.failed -= 1;
    counts.passed += again.passed;
    // The tests of a file that could not be set up were counted as skipped.
    if (failure.test === null) counts.skipped = Math.max(0, counts.skipped - again.passed);
  }
  return { ...counts, failures };
}

/** Files without a test that failed, but which could not be loaded or set up, count as one each. */
function countsOf(report: VitestReport): { passed: number; failed: number; skipped: number } {
  const files = failuresOf(report, SOURCE_DIR).filter(({ test }) => test === null).length;
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests + files,
    skipped: report.numPendingTests,
  };
}

async function runAgain(
  cli: Cli,
  projects: readonly string[],
  { file, test }: Failure,
): Promise<{ readonly passed: number; readonly failed: number }> {
  cli.stdout.write(`\n-- once more, alone: ${file}${test === null ? '' : ` > ${test}`}\n`);
  const pattern = test === null ? [] : ['--testNamePattern', `^${literally(test)}$`];
  const { status, report } = await run(cli, projects, [file, ...pattern]);
  const { passed, failed } = countsOf(report);
  return { passed, failed: failed === 0 && status !== 0 ? 1 : failed };
}

const literally = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

interface Ran {
  readonly status: number;
  readonly report: VitestReport;
  /** Errors outside of any test, of which the report says nothing. */
  readonly hasStrayErrors: boolean;
}

async function run(cli: Cli, projects: readonly string[], args: readonly string[]): Promise<Ran> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-test-'));
  try {
    const file = join(dir, 'report.json');
    let tail = '';
    let hasStrayErrors = false;
    const look = (text: string): void => {
      tail = tail.slice(-STRAY_ERRORS_LENGTH) + text;
      hasStrayErrors ||= STRAY_ERRORS.test(tail);
    };
    const argv = [
      process.execPath,
      join(SOURCE_DIR, 'node_modules/vitest/vitest.mjs'),
      'run',
      ...projects.flatMap((project) => ['--project', project]),
      '--reporter=default',
      '--reporter=json',
      `--outputFile.json=${file}`,
      ...args,
    ];
    const status = await tool(cli, argv, look);
    const report = JSON.parse(await readFile(file, 'utf8')) as VitestReport;
    return { status, report, hasStrayErrors };
  } finally {
    await rm(dir, { recursive: true });
  }
}

/** What failed in a report, in its order. */
export function failuresOf(report: VitestReport, base: string): readonly Failure[] {
  return report.testResults.flatMap((result): readonly Failure[] => {
    const file = relative(base, result.name);
    const tests = result.assertionResults.filter(({ status }) => status === 'failed');
    if (result.status === 'failed' && tests.length === 0) {
      return [{ file, test: null, message: result.message, passedAgain: false }];
    }
    return tests.map((test) => ({
      file,
      test: [...test.ancestorTitles, test.title].join(' > '),
      message: (test.failureMessages ?? [])
        .map((text) => text.replace(VITEST_FRAMES, '').trimEnd())
        .join('\n'),
      passedAgain: false,
    }));
  });
}

/** The end of the output: each failure by name with its message, cut; empty where nothing failed. */
export function showFailures(failures: readonly Failure[]): string {
  const lines = failures.map(({ file, test, message, passedAgain }) => {
    const title = `${file}${test === null ? '' : ` > ${test}`}`;
    const text = message.length > MESSAGE_MAX ? `${message.slice(0, MESSAGE_MAX)}…` : message;
    const head = passedAgain ? 'UNSTEADY (failed once, passed alone)' : 'FAILED';
    return `\n${head}: ${title}\n${text.replace(/^/gm, '    ')}\n`;
  });
  return lines.join('');
}
