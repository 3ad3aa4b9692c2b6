import { describe, expect, it } from 'vitest';
import type { FileReport, TestReport, TestState } from './report.ts';
import { RERUNS, UnsteadyBudget, verdictOf } from './verdict.ts';
import type { RunVitest, VitestRequest, VitestRun } from './vitest.ts';

const REQUEST: VitestRequest = { projects: ['vm'], filters: [] };

/** Outcomes of a file's tests by name; an error of its hook as `hook`. */
type Tests = Readonly<Record<string, TestState>>;

const file = (path: string, tests: Tests, errors: FileReport['errors'] = []): FileReport => ({
  layer: 'vm',
  path,
  durationMs: 10,
  errors,
  tests: Object.entries(tests).map(([name, state]) => ({
    name,
    state,
    reason: null,
    messages: state === 'failed' ? [`${name} broke`] : [],
  })),
});

const run = (files: readonly FileReport[], strayErrors: readonly string[] = []): VitestRun => {
  const report: TestReport = { files, strayErrors };
  const isRed =
    strayErrors.length > 0 ||
    files.some(({ tests, errors }) => errors.length > 0 || tests.some(({ state }) => state === 'failed'));
  return { status: isRed ? 1 : 0, report };
};

/** A Vitest with scripted runs; the last one repeats. */
function scripted(...runs: readonly VitestRun[]): RunVitest & { readonly requests: VitestRequest[] } {
  const requests: VitestRequest[] = [];
  const next: RunVitest = async (request) => {
    requests.push(request);
    return runs[Math.min(requests.length, runs.length) - 1] ?? expect.fail('no run is scripted');
  };
  return Object.assign(next, { requests });
}

const GREEN = run([file('a.ts', { one: 'passed', two: 'passed' })]);
const RED = run([file('a.ts', { one: 'failed', two: 'passed' })]);

describe('verdictOf', () => {
  it('a green run is run once', async () => {
    const vitest = scripted(GREEN);
    const outcome = await verdictOf(vitest, REQUEST, { budget: new UnsteadyBudget() });
    expect(outcome).toMatchObject({ passed: 2, failed: 0, skipped: 0, failures: [], unsteady: [] });
    expect(outcome.files).toEqual([{ file: 'a.ts', durationMs: 10, tests: 2 }]);
    expect(vitest.requests).toEqual([REQUEST]);
  });

  it('without a budget, a failure is final and is not rerun', async () => {
    const vitest = scripted(RED, GREEN);
    const outcome = await verdictOf(vitest, REQUEST, { budget: null });
    expect(outcome).toMatchObject({ passed: 1, failed: 1, unsteady: [] });
    expect(outcome.failures).toEqual([{ file: 'a.ts', test: 'one', message: 'one broke' }]);
    expect(vitest.requests).toHaveLength(1);
  });

  it('a test that passes five reruns is unsteady, neither passed nor failed', async () => {
    const vitest = scripted(RED, GREEN);
    const outcome = await verdictOf(vitest, REQUEST, { budget: new UnsteadyBudget() });
    expect(outcome).toMatchObject({ passed: 1, failed: 0, failures: [] });
    expect(outcome.unsteady).toEqual([{ file: 'a.ts', test: 'one', message: 'one broke' }]);
    expect(vitest.requests).toHaveLength(1 + RERUNS);
    const again = { projects: ['vm'], filters: ['a.ts'], names: ['one'] };
    expect(vitest.requests[RERUNS]).toEqual(again);
  });

  it('a test that fails in the fifth rerun failed', async () => {
    const vitest = scripted(RED, GREEN, GREEN, GREEN, GREEN, RED);
    const budget = new UnsteadyBudget();
    const outcome = await verdictOf(vitest, REQUEST, { budget });
    expect(outcome).toMatchObject({ passed: 1, failed: 1, unsteady: [] });
    // The test was not unsteady, so two others may still be.
    expect(budget.take(2)).toBe(true);
  });

  it('a test that fails alone is rerun with its file, which may create what it needs', async () => {
    const vitest = scripted(RED, RED, GREEN);
    const outcome = await verdictOf(vitest, REQUEST, { budget: new UnsteadyBudget() });
    expect(outcome).toMatchObject({ failed: 0, unsteady: [{ test: 'one' }] });
    expect(vitest.requests).toHaveLength(2 + RERUNS);
    expect(vitest.requests[2]).toEqual({ projects: ['vm'], filters: ['a.ts'] });
  });

  it('no rerun follows a failed rerun of the whole file', async () => {
    const vitest = scripted(RED, RED, RED, GREEN);
    const outcome = await verdictOf(vitest, REQUEST, { budget: new UnsteadyBudget() });
    expect(outcome).toMatchObject({ failed: 1, unsteady: [] });
    expect(vitest.requests).toHaveLength(3);
  });

  it('another test of the file that fails in a rerun makes both fail', async () => {
    const other = run([file('a.ts', { one: 'passed', two: 'failed' })]);
    const outcome = await verdictOf(scripted(RED, other), REQUEST, { budget: new UnsteadyBudget() });
    expect(outcome.failures.map(({ test }) => test)).toEqual(['one', 'two']);
    expect(outcome).toMatchObject({ failed: 2, unsteady: [] });
  });

  it('a rerun in which the test is skipped or missing is no pass', async () => {
    for (const tests of [{ one: 'skipped', two: 'passed' }, { two: 'passed' }] as Tests[]) {
      const vitest = scripted(RED, run([file('a.ts', tests)]));
      const outcome = await verdictOf(vitest, REQUEST, { budget: new UnsteadyBudget() });
      expect(outcome).toMatchObject({ failed: 1, unsteady: [] });
    }
  });

  it('a third failure of the whole run is final', async () => {
    const budget = new UnsteadyBudget();
    const two = run([file('a.ts', { one: 'failed', two: 'failed' })]);
    const first = await verdictOf(scripted(two, GREEN), REQUEST, { budget });
    expect(first).toMatchObject({ failed: 0, unsteady: [{ test: 'one' }, { test: 'two' }] });
    const vitest = scripted(RED, GREEN);
    const second = await verdictOf(vitest, REQUEST, { budget });
    expect(second).toMatchObject({ failed: 1, unsteady: [] });
    expect(vitest.requests).toHaveLength(1);
  });

  it('three failures at once are final', async () => {
    const three = run([file('a.ts', { one: 'failed', two: 'failed' }), file('b.ts', { three: 'failed' })]);
    const vitest = scripted(three, GREEN);
    const outcome = await verdictOf(vitest, REQUEST, { budget: new UnsteadyBudget() });
    expect(outcome).toMatchObject({ failed: 3, unsteady: [] });
    expect(vitest.requests).toHaveLength(1);
  });

  it('an error outside any test fails the run and is never rerun', async () => {
    const vitest = scripted(run([file('a.ts', { one: 'passed' })], ['Error: stray']), GREEN);
    const outcome = await verdictOf(vitest, REQUEST, { budget: new UnsteadyBudget() });
    expect(outcome).toMatchObject({ passed: 1, failed: 1, unsteady: [] });
    expect(outcome.failures).toMatchObject([{ file: 'outside any test', message: 'Error: stray' }]);
    expect(vitest.requests).toHaveLength(1);
  });

  it('an error outside any test in a rerun fails the test', async () => {
    const stray = run([file('a.ts', { one: 'passed', two: 'passed' })], ['Error: stray']);
    const vitest = scripted(RED, stray);
    const outcome = await verdictOf(vitest, REQUEST, { budget: new UnsteadyBudget() });
    expect(outcome.failures.map(({ message }) => message)).toEqual(['one broke', 'Error: stray']);
  });

  it('a failed hook is one failure; if unsteady, the tests it had skipped count as passed', async () => {
    const hook = { suite: 'sandbox', message: 'Error: hook' };
    const broken = run([file('a.ts', { 'sandbox > x': 'skipped', 'sandbox > y': 'skipped', z: 'passed' }, [hook])]);
    const whole = run([file('a.ts', { 'sandbox > x': 'passed', 'sandbox > y': 'passed', z: 'passed' })]);
    const final = await verdictOf(scripted(broken), REQUEST, { budget: null });
    expect(final).toMatchObject({ passed: 1, failed: 1, skipped: 2 });
    const budget = new UnsteadyBudget();
    const outcome = await verdictOf(scripted(broken, whole), REQUEST, { budget });
    expect(outcome).toMatchObject({ passed: 3, failed: 0, skipped: 0 });
    expect(outcome.unsteady).toMatchObject([{ file: 'a.ts', test: 'sandbox' }]);
  });

  it('a status without a failure is a failure', async () => {
    const vitest = scripted({ ...GREEN, status: 1 });
    const outcome = await verdictOf(vitest, REQUEST, { budget: new UnsteadyBudget() });
    expect(outcome).toMatchObject({ passed: 2, failed: 1 });
    expect(outcome.failures).toMatchObject([{ message: 'ended with status 1' }]);
  });
});
