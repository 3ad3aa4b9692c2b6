import { describe, expect, it } from 'vitest';
import { endOf, skipTable, slowest, sum } from './summary.ts';
import type { Outcome } from './verdict.ts';

const outcome = (change: Partial<Outcome>): Outcome => ({
  passed: 0,
  failed: 0,
  skipped: 0,
  failures: [],
  unsteady: [],
  skips: [],
  files: [],
  ...change,
});

describe('endOf', () => {
  it('ends with the closing line alone on its line', () => {
    const plain = endOf(outcome({ passed: 3 }), 7, 'list');
    expect(plain).toBe('\n3 passed, 0 failed\n');
    const skipped = outcome({ passed: 3, skipped: 1 });
    expect(endOf(skipped, 7, 'list').endsWith('\n3 passed, 0 failed, 1 skipped\n')).toBe(true);
  });

  it('repeats each failure, cut, and says how to repeat the run with its seed', () => {
    const failures = [{ file: 'a.test.ts', test: 'x > breaks', message: `${'x'.repeat(5000)}` }];
    const text = endOf(outcome({ failed: 1, failures }), 7, 'list');
    expect(text).toContain('\nFAILED: a.test.ts > x > breaks\n    xxx');
    expect(text).toContain('x…\n');
    expect(text.length).toBeLessThan(3000);
    expect(text).toContain('\nrepeat: NEUROVISOR_SEED=7 ./neurovisor test a.test.ts\n');
  });

  it('names unsteady tests with their first message, and counts them on a line of their own', () => {
    const unsteady = [{ file: 'b.ts', test: 'sways', message: 'Error: late' }];
    const text = endOf(outcome({ passed: 1, unsteady }), 7, '/list');
    expect(text).toContain('\nUNSTEADY: b.ts > sways\n    Error: late\n');
    expect(text.endsWith('\n1 unsteady: b.ts > sways (/list)\n1 passed, 0 failed\n')).toBe(true);
  });
});

describe('skipTable', () => {
  const skip = (test: string, reason: string) => ({ file: 'a.ts', test, reason });

  it('has a line per test with its reason, and one for many with the same reason', () => {
    const many = ['1', '2', '3', '4', '5', '6'].map((name) => skip(name, 'no root'));
    expect(skipTable([skip('x', 'no KVM'), ...many])).toBe(
      '\nskipped:\n  a.ts > x: no KVM\n  6 tests in a.ts: no root\n',
    );
  });

  it('is empty if nothing was skipped', () => expect(skipTable([])).toBe(''));
});

describe('slowest', () => {
  it('lists at most 15 files, the slowest first', () => {
    const files = Array.from({ length: 20 }, (_, n) => ({
      file: `${n}.ts`,
      durationMs: 1000 * (n + 1),
    }));
    const lines = slowest(files).trim().split('\n');
    expect(lines).toHaveLength(16);
    expect(lines[1]).toMatch(/^ +20\.0 s {2}19\.ts$/);
  });
});

describe('sum', () => {
  it('adds counts and joins lists', () => {
    const one = outcome({
      passed: 1,
      failed: 1,
      failures: [{ file: 'a', test: null, message: '' }],
    });
    expect(sum([one, outcome({ passed: 2, skipped: 3 })])).toMatchObject({
      passed: 3,
      failed: 1,
      skipped: 3,
      failures: [{ file: 'a' }],
    });
  });
});
