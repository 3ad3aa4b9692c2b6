/** A Vitest reporter that writes the runner's input: every test with its outcome, reason and time. */
import { writeFileSync } from 'node:fs';
import type { Reporter, TestCase, TestModule, TestSuite } from 'vitest/node';
import { type FileReport, REPORT_VARIABLE, type TestReport, type TestState } from './report.ts';

declare module 'vitest' {
  interface TaskMeta {
    /** Why a test or suite is skipped, as set by `test/support/requires.ts`. */
    skipReason?: string;
  }
}

interface ErrorText {
  readonly message: string;
  readonly stack?: string | undefined;
}

export default class FileReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], strayErrors: readonly ErrorText[]): void {
    const path = process.env[REPORT_VARIABLE];
    if (path === undefined) return;
    const report: TestReport = { files: modules.map(fileOf), strayErrors: strayErrors.map(textOf) };
    writeFileSync(path, JSON.stringify(report));
  }
}

/** The stack begins with the message; an assertion's stack has nothing more that helps. */
const textOf = ({ message, stack }: ErrorText): string => (stack?.includes(message) ? stack : message);

function fileOf(module: TestModule): FileReport {
  const { collectDuration, setupDuration, duration } = module.diagnostic();
  const suites = [...module.children.allSuites()];
  return {
    layer: module.project.name,
    path: module.relativeModuleId,
    durationMs: collectDuration + setupDuration + duration,
    errors: [
      ...module.errors().map((error) => ({ suite: null, message: textOf(error) })),
      ...suites.flatMap((suite) => suite.errors().map((error) => ({ suite: suite.fullName, message: textOf(error) }))),
    ],
    tests: [...module.children.allTests()].map((test) => ({
      name: test.fullName,
      state: stateOf(test),
      reason: reasonOf(test),
      messages: (test.result().errors ?? []).map(textOf),
    })),
  };
}

/** A test that never finished did not pass. */
function stateOf(test: TestCase): TestState {
  const { state } = test.result();
  return state === 'pending' ? 'failed' : state;
}

function reasonOf(test: TestCase): string | null {
  const result = test.result();
  if (result.state !== 'skipped') return null;
  let reason = result.note ?? test.meta().skipReason;
  let parent: TestSuite | TestModule = test.parent;
  while (reason === undefined && parent.type === 'suite') {
    reason = parent.meta().skipReason;
    parent = parent.parent;
  }
  return reason ?? null;
}
