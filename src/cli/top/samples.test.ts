import { describe, expect, it } from 'vitest';
import { quantile, Samples, since } from './samples.ts';

const TEXT = `# HELP h x
# TYPE h histogram
h_bucket{model="a",le="1"} 2
h_bucket{model="a",le="2"} 6
h_bucket{model="a",le="+Inf"} 8
h_bucket{model="b",le="1"} 1
h_bucket{model="b",le="2"} 1
h_bucket{model="b",le="+Inf"} 1
c_total{kind="a \\"b\\""} 4
c_total{kind="c"} 5
not a sample
`;

describe('Samples', () => {
  it('sum: adds up all series, or those with a label', () => {
    const samples = new Samples(TEXT);
    expect(samples.sum('c_total')).toBe(9);
    expect(samples.sum('c_total', { kind: 'c' })).toBe(5);
    expect(samples.sum('unknown')).toBe(0);
  });

  it('distribution: adds up series into counts per bucket', () => {
    const all = new Samples(TEXT).distribution('h');
    expect(all.buckets.map(({ count }) => count)).toEqual([3, 4, 2]);
    expect(all.count).toBe(9);
    expect(quantile(all, 0.5)).toBeCloseTo(1 + 1.5 / 4);
    expect(quantile(all, 1)).toBe(2);
    const later = new Samples(TEXT.replace('"+Inf"} 8', '"+Inf"} 10')).distribution('h');
    expect(since(later, all)).toMatchObject({ count: 2 });
    expect(quantile(since(all, all), 0.5)).toBeNull();
  });
});
