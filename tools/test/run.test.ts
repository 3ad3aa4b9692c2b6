import { describe, expect, it } from 'vitest';
import { guestOutcome } from './layers.ts';
import { planOf } from './run.ts';

const names = (...words: string[]): string[] => planOf(words).layers.map(({ name }) => name);

describe('planOf', () => {
  it('without words runs every layer, the gate first', () => {
    expect(names()).toEqual(['check', 'unit', 'guest', 'component', 'vm', 'e2e']);
  });
  it('keeps the order of the layers, whatever the order of the words', () => {
    expect(names('vm', 'check')).toEqual(['check', 'vm']);
  });
  it('takes the layer of a path from the path, beside the layers that are named', () => {
    expect(names('src/net', 'test/component/jail.test.ts')).toEqual(['unit', 'component']);
    expect(names('guest', 'src/net')).toEqual(['unit', 'guest']);
    expect(planOf(['unit', './src/net']).filters).toEqual(['src/net']);
  });
  it('refuses a layer that does not exist, and names those that do', () => {
    expect(() => planOf(['unti'])).toThrow('no layer "unti"');
  });
});

describe('guestOutcome', () => {
  it('reads counts, names of failures and reasons of skips', () => {
    const output = [
      'test_a (test_x.A.test_a) ... ok',
      "test_b (test_x.A.test_b) ... skipped 'needs root'",
      'test_c (test_x.A.test_c) ... FAIL',
      'FAIL: test_c (test_x.A.test_c)',
      'Ran 3 tests in 0.3s',
    ].join('\n');
    expect(guestOutcome(output, 1)).toMatchObject({
      passed: 1,
      failed: 1,
      skipped: 1,
      failures: [{ test: 'test_c (test_x.A.test_c)' }],
      skips: [{ test: 'test_b (test_x.A.test_b)', reason: 'needs root' }],
    });
  });
  it('no test at all, or a status without a failure, is a failure', () => {
    expect(guestOutcome('Ran 0 tests in 0s', 0)).toMatchObject({ passed: 0, failed: 1 });
    expect(guestOutcome('Ran 3 tests in 0s', 1)).toMatchObject({ failed: 1 });
  });
});
