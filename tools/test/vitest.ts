/** One run of Vitest, read from the report of `reporter.ts`. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PACKAGE_DIR } from '../../src/base/package-dir.ts';
import { runProgram, type Shell } from './child.ts';
import { REPORT_VARIABLE, type TestReport } from './report.ts';

export interface VitestRequest {
  readonly projects: readonly string[];
  /** Parts of paths; if empty, all files. */
  readonly filters: readonly string[];
  /** Runs only these tests and suites, named `suite > test`. */
  readonly names?: readonly string[];
}

export interface VitestRun {
  readonly status: number;
  readonly report: TestReport;
}

export type RunVitest = (request: VitestRequest) => Promise<VitestRun>;

export interface VitestOptions {
  /** A configuration other than the checkout's. */
  readonly config?: string;
  readonly args?: readonly string[];
}

export function vitestIn(shell: Shell, seed: number, options: VitestOptions = {}): RunVitest {
  const { config, args = [] } = options;
  return async ({ projects, filters, names = [] }) => {
    const dir = await mkdtemp(join(tmpdir(), 'nv-test-'));
    try {
      const path = join(dir, 'report.json');
      const argv = [
        process.execPath,
        join(PACKAGE_DIR, 'node_modules/vitest/vitest.mjs'),
        'run',
        ...(config === undefined ? [] : ['--config', config, '--root', join(config, '..')]),
        ...projects.flatMap((project) => ['--project', project]),
        ...args,
        ...(names.length === 0 ? [] : ['--testNamePattern', patternOf(names)]),
        '--reporter=default',
        `--reporter=${join(import.meta.dirname, 'reporter.ts')}`,
        ...(filters.length === 0 ? [] : ['--passWithNoTests', ...filters]),
      ];
      const env = { [REPORT_VARIABLE]: path, NEUROVISOR_SEED: String(seed) };
      const status = await runProgram(shell, argv, { env });
      return { status, report: await readReport(path, status) };
    } finally {
      await rm(dir, { recursive: true });
    }
  };
}

/** A suite stands for all its tests. */
function patternOf(names: readonly string[]): string {
  const escaped = names.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  return `^(?:${escaped.join('|')})(?: |$)`;
}

/** A run that wrote no report is an error outside any test. */
async function readReport(path: string, status: number): Promise<TestReport> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as TestReport;
  } catch (error) {
    const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    if (!isMissing) throw error;
    if (status === 0) return { files: [], strayErrors: [] };
    return { files: [], strayErrors: [`Vitest ended with status ${status} and wrote no report`] };
  }
}
