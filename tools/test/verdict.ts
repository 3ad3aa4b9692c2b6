/**
 * The verdict on one layer's run. In layers with kernels and VMs, a failed test is run again, without the others of its
 * file, five times and with the same seed. If every rerun passes, the test is unsteady; otherwise it failed.
 *
 *     failed ── reruns allowed, at most two in the whole run ──► 5 × the test ── all pass ──► unsteady
 *        └─────────────── otherwise ───────────────► failed           └────── one fails ────► failed
 */
import { type Failure, failuresOf, passedOf, SETUP_FAILED, type Skip, skipsOf, type TestReport } from './report.ts';
import type { RunVitest, VitestRequest } from './vitest.ts';

/** Maximum number of unsteady tests of a green run. */
export const UNSTEADY_MAX = 2;
/** Number of reruns of a failed test, all of which must pass. */
export const RERUNS = 5;

export interface FileTime {
  readonly file: string;
  readonly durationMs: number;
  readonly tests: number;
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
  /** `null`: failures of this layer are final. */
  readonly budget: UnsteadyBudget | null;
  onRerun?(file: string, round: number): void;
  /** Called at once, long before the end of the run. */
  onUnsteady?(failure: Failure): void;
}

export async function verdictOf(run: RunVitest, request: VitestRequest, options: VerdictOptions): Promise<Outcome> {
  const { status, report } = await run(request);
  const stray = strayFailures(report);
  const first = failuresOf(report);
  if (status !== 0 && first.length === 0 && stray.length === 0) {
    stray.push({ file: 'vitest', test: null, message: `ended with status ${status}` });
  }
  const { budget } = options;
  const isFinal = stray.length > 0 || first.length === 0 || budget?.take(first.length) !== true;
  const files = report.files.map(({ path, durationMs, tests }) => ({ file: path, durationMs, tests: tests.length }));
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
      for (const failure of ofFile) options.onUnsteady?.(failure);
      unsteady.push(...ofFile);
      // The reruns passed tests that a failed set-up had skipped.
      const stillSkipped = skips.filter((skip) => skip.file !== file || skip.reason !== SETUP_FAILED);
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

/** @returns `null` if every rerun passed; otherwise the failures beyond the known ones */
async function rerun(
  run: RunVitest,
  request: VitestRequest,
  known: readonly Failure[],
  onRerun: VerdictOptions['onRerun'],
): Promise<readonly Failure[] | null> {
  const [file = ''] = request.filters;
  // A file that could not be loaded names no test.
  const names = known.flatMap(({ test }) => test ?? []);
  let again = names.length === known.length ? { ...request, names } : request;
  for (let round = 1; round <= RERUNS; round += 1) {
    onRerun?.(file, round);
    const { status, report } = await run(again);
    const passed = new Set(
      report.files
        .filter(({ path }) => path === file)
        .flatMap(({ tests }) => tests)
        .filter(({ state }) => state === 'passed')
        .map(({ name }) => name),
    );
    // A failed hook or file has no test name: then the rest of the file decides.
    const isPassed = ({ test }: Failure): boolean =>
      test === null ? passed.size > 0 : passed.has(test) || isSuite(passed, test);
    if (status === 0 && known.every(isPassed)) continue;
    if (again !== request && round === 1) {
      // The test may need state from earlier tests of its file.
      again = request;
      round = 0;
      continue;
    }
    const isKnown = new Set(known.map(({ test }) => test));
    return [...failuresOf(report).filter(({ test }) => !isKnown.has(test)), ...strayFailures(report)];
  }
  return null;
}

const isSuite = (passed: ReadonlySet<string>, suite: string): boolean =>
  [...passed].some((name) => name.startsWith(`${suite} > `));
