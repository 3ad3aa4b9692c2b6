/** The result of one Vitest run, as `reporter.ts` writes it, and its evaluation. */

/** Names the file that the reporter writes. */
export const REPORT_VARIABLE = 'NEUROVISOR_TEST_REPORT';

export type TestState = 'passed' | 'failed' | 'skipped';

export interface TestReport {
  readonly files: readonly FileReport[];
  /** Errors outside any test. */
  readonly strayErrors: readonly string[];
}

export interface FileReport {
  /** Vitest's project. */
  readonly layer: string;
  /** Relative to the checkout. */
  readonly path: string;
  readonly durationMs: number;
  /** Errors of hooks, or of the file itself (`suite` is null). */
  readonly errors: readonly { readonly suite: string | null; readonly message: string }[];
  readonly tests: readonly {
    /** `suite > test` */
    readonly name: string;
    readonly state: TestState;
    /** Why it was skipped, if a reason was given. */
    readonly reason: string | null;
    readonly messages: readonly string[];
  }[];
}

export interface Failure {
  readonly file: string;
  /** `null` for the file itself, or an error outside any test. */
  readonly test: string | null;
  readonly message: string;
}

export interface Skip {
  readonly file: string;
  readonly test: string;
  readonly reason: string;
}

const NO_REASON = 'no reason given';
export const SETUP_FAILED = 'the set-up of its file or suite failed';
const VITEST_FRAMES = /^ +at .*(?:node_modules\/(?:@?vitest)|new Promise \(<anonymous>\)).*\n?/gm;

const cleaned = (message: string): string => message.replace(VITEST_FRAMES, '').trimEnd();

/** Failed tests and failed hooks, in the order of the report. */
export function failuresOf(report: TestReport): readonly Failure[] {
  return report.files.flatMap(({ path, errors, tests }) => [
    ...errors.map(({ suite, message }) => ({ file: path, test: suite, message: cleaned(message) })),
    ...tests
      .filter(({ state }) => state === 'failed')
      .map(({ name, messages }) => ({ file: path, test: name, message: messages.map(cleaned).join('\n') })),
  ]);
}

export function skipsOf(report: TestReport): readonly Skip[] {
  return report.files.flatMap(({ path, errors, tests }) =>
    tests
      .filter(({ state }) => state === 'skipped')
      .map(({ name, reason }) => ({
        file: path,
        test: name,
        reason: reason ?? (errors.length > 0 ? SETUP_FAILED : NO_REASON),
      })),
  );
}

export const passedOf = (report: TestReport): number =>
  report.files.flatMap(({ tests }) => tests).filter(({ state }) => state === 'passed').length;

export const titleOf = ({ file, test }: { file: string; test: string | null }): string =>
  test === null ? file : `${file} > ${test}`;
