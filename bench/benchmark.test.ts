import { describe, expect, it } from 'vitest';
import { isWanted, resultOf } from './benchmark.ts';

describe('benchmark', () => {
  it('resultOf: median, p95 and the ratio to the baseline', () => {
    const result = resultOf({
      name: 'x.y',
      unit: 'ms',
      accelerator: 'tcg',
      samples: [10, 20, 30],
      baseline: { name: 'b', samples: [40, 40, 80] },
    });
    expect(result).toEqual({
      name: 'x.y',
      unit: 'ms',
      accelerator: 'tcg',
      n: 3,
      p50: 20,
      p95: 30,
      success: 1,
      baseline: { name: 'b', p50: 40, p95: 80 },
      ratio: 0.5,
      note: null,
    });
  });

  it('resultOf: has no ratio without a baseline', () => {
    const result = resultOf({
      name: 'x',
      unit: 'ms',
      accelerator: 'tcg',
      samples: [1],
      baseline: null,
      note: 'first of its kind',
    });
    expect(result).toMatchObject({ baseline: null, ratio: null, note: 'first of its kind' });
  });

  it('resultOf: failed attempts lower the success share; without samples there is no figure', () => {
    const some = { name: 'x', unit: 'ms', accelerator: 'tcg', baseline: null } as const;
    expect(resultOf({ ...some, samples: [1, 2, 3], failed: 1 })).toMatchObject({ success: 0.75 });
    const none = resultOf({ ...some, samples: [], failed: 2, baseline: { name: 'b', samples: [1] } });
    expect(none).toMatchObject({ n: 0, p50: null, p95: null, success: 0, ratio: null });
  });

  it('isWanted: matches a whole name, or its part before a dot or slash', () => {
    expect(isWanted('fork.ready/4', [])).toBe(true);
    for (const wanted of ['fork', 'fork.ready', 'fork.ready/4']) {
      expect(isWanted('fork.ready/4', ['boot', wanted]), wanted).toBe(true);
    }
    for (const wanted of ['for', 'fork.read', 'fork.ready/', 'fork.ready/40']) {
      expect(isWanted('fork.ready/4', [wanted]), wanted).toBe(false);
    }
  });
});
