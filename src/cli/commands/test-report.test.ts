import { describe, expect, test } from 'vitest';
import { failuresOf, showFailures, type VitestReport } from './test-report.ts';

const report = (results: VitestReport['testResults']): VitestReport => ({
  numPassedTests: 0,
  numFailedTests: 0,
  numPendingTests: 0,
  testResults: results,
});

describe('failuresOf', () => {
  test('names each failed test with its messages, and no other', () => {
    const failures = failuresOf(
      report([
        {
          name: '/src/a.test.ts',
          status: 'failed',
          message: '',
          assertionResults: [
            { ancestorTitles: ['a'], title: 'works', status: 'passed' },
            {
              ancestorTitles: ['a'],
              title: 'breaks',
              status: 'failed',
              failureMessages: [
                'Error: one\n    at x (file:///node_modules/vitest/a.js:1:1)\n',
                'Error: two',
              ],
            },
            { ancestorTitles: ['a'], title: 'waits', status: 'skipped', failureMessages: null },
          ],
        },
        { name: '/src/b.test.ts', status: 'passed', message: '', assertionResults: [] },
      ]),
      '/src',
    );
    expect(failures).toEqual([
      {
        file: 'a.test.ts',
        test: 'a > breaks',
        message: 'Error: one\nError: two',
        passedAgain: false,
      },
    ]);
  });

  test('a file that could not be loaded is a failure of its own', () => {
    const results = [
      { name: '/src/c.test.ts', status: 'failed', message: 'no such module', assertionResults: [] },
    ];
    expect(failuresOf(report(results), '/src')).toEqual([
      { file: 'c.test.ts', test: null, message: 'no such module', passedAgain: false },
    ]);
  });
});

describe('showFailures', () => {
  test('tells a failure from a test that passed when run alone, and cuts long messages', () => {
    const text = showFailures([
      { file: 'a.test.ts', test: 'a > breaks', message: 'x'.repeat(5000), passedAgain: false },
      { file: 'b.test.ts', test: 'b sways', message: 'Error: late', passedAgain: true },
    ]);
    expect(text).toContain('\nFAILED: a.test.ts > a > breaks\n    xxx');
    expect(text).toContain('x…\n');
    expect(text).toContain(
      '\nUNSTEADY (failed once, passed alone): b.test.ts > b sways\n    Error: late\n',
    );
    expect(text.length).toBeLessThan(2000);
  });

  test('is empty where nothing failed', () => {
    expect(showFailures([])).toBe('');
  });
});
