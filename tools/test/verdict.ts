/**
 * The verdict on one layer's run. In layers with kernels and VMs, the file of a failed test is run again,
 * five times and with the same seed. If every rerun passes, the test is unsteady; otherwise it failed.
 *
 *     failed ── reruns allowed, at most two in the whole run ──► 5 × its file ── all pass ──► unsteady
 *        └─────────────── otherwise ───────────────► failed           └────── one fails ────► failed
 */
import {
  type Failure,
  failuresOf,
  passedOf,
  SETUP_FAILED,
  type Skip,
  skipsOf,
  type TestReport,
} from './report.ts';
import type { RunVitest, VitestRequest } from './vitest.ts';

/** Unsteady tests of one run beyond which it is red. */
export const UNSTEADY_MAX = 2;
/** Reruns of a failed test's file, all of which must pass. */
export const RERUNS = 5;

export interface FileTime {
  readonly file: string;
  readonly durationMs: number;
}

export interface Outcome {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly failures: readonly Failure[];
  readonly unsteady: readonly Failure[];
  readonly skips: readonly Skip[];
  readonly files: readonly FileTime[];
}

/** Failures that may still turn out unsteady; all layers of a run share it. */
export class UnsteadyBudget {
  #left = UNSTEADY_MAX;

  /** @returns false, and takes none, if fewer are left */
  take(count: number): boolean {
    if (count > this.#left) return false;
    this.#left -= count;
    return true;
  }

  giveBack(count: number): void {
    this.#left += count;
  }
}

export interface VerdictOptions {
  /** Null: failures of this layer are final. */
  readonly budget: UnsteadyBudget | null;
  onRerun?(file: string, round: number): void;
}

export async function verdictOf(
  run: RunVitest,
  request: VitestRequest,
  options: VerdictOptions,
): Promise<Outcome> {
  const { status, report } = await run(request);
  const stray = strayFailures(report);
  const first = failuresOf(report);
  if (status !== 0 && first.length === 0 && stray.length === 0) {
    stray.push({ file: 'vitest', test: null, message: `ended with status ${status}` });
  }
  const { budget } = options;
  const isFinal = stray.length > 0 || first.length === 0 || budget?.take(first.length) !== true;
  const files = report.files.map(({ path, durationMs }) => ({ file: path, durationMs }));
  let passed = passedOf(report);
  let skips = skipsOf(report);
  if (isFinal) {
    const failures = [...first, ...stray];
    const failed = failures.length;
    return { passed, failed, skipped: skips.length, failures, unsteady: [], skips, files };
  }
  const failures: Failure[] = [];
  const unsteady: Failure[] = [];
  for (const [file, ofFile] of Map.groupBy(first, (failure) => failure.file)) {
    const again = await rerun(run, { ...request, filters: [file] }, ofFile, options.onRerun);
    if (again === null) {
      unsteady.push(...ofFile);
      // The reruns passed what a failed set-up had skipped.
      const stillSkipped = skips.filter(
        (skip) => skip.file !== file || skip.reason !== SETUP_FAILED,
      );
      passed += skips.length - stillSkipped.length;
      skips = stillSkipped;
    } else {
      budget?.giveBack(ofFile.length);
      failures.push(...ofFile, ...again);
    }
  }
  const failed = failures.length;
  return { passed, failed, skipped: skips.length, failures, unsteady, skips, files };
}

const strayFailures = (report: TestReport): Failure[] =>
  report.strayErrors.map((message) => ({ file: 'outside any test', test: null, message }));

/** @returns null if every rerun passed; otherwise what failed beyond the known failures */
async function rerun(
  run: RunVitest,
  request: VitestRequest,
  known: readonly Failure[],
  onRerun: VerdictOptions['onRerun'],
): Promise<readonly Failure[] | null> {
  const [file = ''] = request.filters;
  for (let round = 1; round <= RERUNS; round += 1) {
    onRerun?.(file, round);
    const { status, report } = await run(request);
    const passed = new Set(
      report.files
        .filter(({ path }) => path === file)
        .flatMap(({ tests }) => tests)
        .filter(({ state }) => state === 'passed')
        .map(({ name }) => name),
    );
    // A failed hook or file is named by no test: then the rest of the file speaks for it.
    const isPassed = ({ test }: Failure): boolean =>
      test === null ? passed.size > 0 : passed.has(test) || isSuite(passed, test);
    if (status === 0 && known.every(isPassed)) continue;
    const names = new Set(known.map(({ test }) => test));
    return [...failuresOf(report).filter(({ test }) => !names.has(test)), ...strayFailures(report)];
  }
  return null;
}

const isSuite = (passed: ReadonlySet<string>, suite: string): boolean =>
  [...passed].some((name) => name.startsWith(`${suite} > `));
