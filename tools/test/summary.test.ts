import { describe, expect, it } from 'vitest';
import { doubledTable, endOf, layerTable, type RunEnd, skipTable, sum } from './summary.ts';
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

const end = (change: Partial<Outcome>, more: Partial<RunEnd> = {}): string =>
  endOf({
    layers: [{ layer: 'unit', tookMs: 90_000, outcome: outcome(change) }],
    doubled: [],
    seed: 7,
    listPath: '/list',
    isContinued: false,
    ...more,
  });

describe('endOf', () => {
  it('ends with the closing line alone on its line', () => {
    expect(end({ passed: 3 })).toMatch(/\nunit +0 +3 +1\.5\n\n3 passed, 0 failed\n$/);
    expect(end({ passed: 3, skipped: 1 })).toMatch(/\n3 passed, 0 failed, 1 skipped\n$/);
  });

  it('counts all layers, and prints no closing line if another part of the run follows', () => {
    const one = { layer: 'a', tookMs: 1, outcome: outcome({ passed: 3 }) };
    const layers = [one, { ...one, layer: 'b' }];
    expect(end({}, { layers })).toMatch(/\n6 passed, 0 failed\n$/);
    expect(end({}, { layers, isContinued: true })).toMatch(/\nso far: 6 passed, 0 failed\n$/);
  });

  it('repeats each failure, truncated, and the command that repeats the run with its seed', () => {
    const failures = [{ file: 'a.test.ts', test: 'x > breaks', message: `${'x'.repeat(5000)}` }];
    const text = end({ failed: 1, failures });
    expect(text).toContain('\nFAILED: a.test.ts > x > breaks\n    xxx');
    expect(text).toContain('x…\n');
    expect(text.length).toBeLessThan(3000);
    expect(text).toContain('\nrepeat: NEUROVISOR_SEED=7 ./neurovisor test a.test.ts\n');
  });

  it('names unsteady tests with their first message, and counts them on a line of their own', () => {
    const unsteady = [{ file: 'b.ts', test: 'sways', message: 'Error: late' }];
    const text = end({ passed: 1, unsteady });
    expect(text).toContain('\nUNSTEADY: b.ts > sways\n    Error: late\n');
    expect(text.endsWith('\n1 unsteady: b.ts > sways (/list)\n1 passed, 0 failed\n')).toBe(true);
  });
});

describe('skipTable', () => {
  const skip = (test: string, reason: string) => ({ file: 'a.ts', test, reason });

  it('has a line per test with its reason, or one line for many with the same reason', () => {
    const many = ['1', '2', '3', '4', '5', '6'].map((name) => skip(name, 'no root'));
    expect(skipTable([skip('x', 'no KVM'), ...many])).toBe(
      '\nskipped:\n  a.ts > x: no KVM\n  6 tests in a.ts: no root\n',
    );
  });

  it('is empty if nothing was skipped', () => expect(skipTable([])).toBe(''));
});

describe('layerTable', () => {
  it('has a line per layer, and the five slowest files of each, the slowest first', () => {
    const files = Array.from({ length: 20 }, (_, n) => ({ file: `${n}.ts`, durationMs: 1000 * (n + 1), tests: 2 }));
    const text = layerTable([
      { layer: 'unit', tookMs: 61_000, outcome: outcome({ passed: 38, failed: 2, files }) },
      { layer: 'vm', tookMs: 6_000, outcome: outcome({ passed: 1 }) },
    ]);
    expect(text).toMatch(/\nunit +20 +40 +1\.0\nvm +0 +1 +0\.1\n/);
    const listed = text.split('slowest files:\n')[1]?.trimEnd().split('\n');
    expect(listed).toHaveLength(5);
    expect(listed?.[0]).toMatch(/^ {2}unit +20\.0 s {2}19\.ts$/);
  });
});

describe('doubledTable', () => {
  it('names each file with both durations', () => {
    const doubled = [{ file: 'a.ts', durationMs: 50_000, tests: 1, usualMs: 20_000 }];
    expect(doubledTable(doubled)).toContain('  a.ts: 50.0 s, usually 20.0 s\n');
    expect(doubledTable([])).toBe('');
  });
});

describe('sum', () => {
  it('adds counts and joins lists', () => {
    const one = outcome({ passed: 1, failed: 1, failures: [{ file: 'a', test: null, message: '' }] });
    expect(sum([one, outcome({ passed: 2, skipped: 3 })])).toMatchObject({
      passed: 3,
      failed: 1,
      skipped: 3,
      failures: [{ file: 'a' }],
    });
  });
});
