import { describe, expect, it } from 'vitest';
import {
  Counter,
  gauge,
  gaugeBy,
  Histogram,
  histogramSamples,
  type Metric,
  MetricRegistry,
  total,
  totalBy,
} from './metrics.ts';

async function textOf(...metrics: readonly Metric[]): Promise<string> {
  const registry = new MetricRegistry();
  registry.add(...metrics);
  return await registry.text();
}

describe('MetricRegistry', () => {
  it('text: writes help, type and each series, escaped, in format 0.0.4', async () => {
    const asked = new Counter('asked_total', 'Asked,\nof a \\ kind.', ['model']);
    asked.add({ model: 'a "b"\\\n' }, 2);
    const free = gauge('free_bytes', 'Free.', () => 1.5);
    expect(await textOf(asked, free)).toBe(
      [
        '# HELP asked_total Asked,\\nof a \\\\ kind.',
        '# TYPE asked_total counter',
        'asked_total{model="a \\"b\\"\\\\\\n"} 2',
        '# HELP free_bytes Free.',
        '# TYPE free_bytes gauge',
        'free_bytes 1.5',
        '',
      ].join('\n'),
    );
  });

  it('histogram: buckets are cumulative, and include their bound', async () => {
    const wait = new Histogram('wait_seconds', 'W.', [], { bounds: [0.1, 1] });
    for (const value of [0.1, 0.5, 7]) wait.observe({}, value);
    wait.observe({}, 0.5, 2);
    wait.observe({}, Number.NaN);
    expect((await textOf(wait)).split('\n').slice(2, -1)).toEqual([
      'wait_seconds_bucket{le="0.1"} 1',
      'wait_seconds_bucket{le="1"} 4',
      'wait_seconds_bucket{le="+Inf"} 5',
      'wait_seconds_sum 8.6',
      'wait_seconds_count 5',
    ]);
  });

  it('counter, histogram: count series beyond the limit as `other`', async () => {
    const counter = new Counter('c_total', 'x', ['trace'], 10);
    const histogram = new Histogram('h', 'x', ['trace'], { bounds: [1], seriesMax: 10 });
    for (let n = 0; n < 10_000; n += 1) {
      counter.add({ trace: `trace ${n}` });
      histogram.observe({ trace: `trace ${n}` }, 1);
    }
    expect(counter.samples()).toHaveLength(10);
    expect(histogram.samples()).toHaveLength(10 * 4);
    expect(counter.samples().reduce((sum, { value }) => sum + value, 0)).toBe(10_000);
    expect(counter.samples().at(-1)).toMatchObject({ labels: { trace: 'other' }, value: 9991 });
  });

  it('gaugeBy: exports at most its limit of series', () => {
    const rows = Array.from({ length: 500 }, (_, n) => [{ n: `${n}` }, n] as const);
    const metric = gaugeBy('g', 'x', ['n'], () => rows);
    expect(metric.samples()).toHaveLength(200);
  });

  it('counter, gauge, total: have the unit that their name ends with', () => {
    const read = (): Iterable<readonly [{ kind: string }, number]> => [[{ kind: 'a' }, 1]];
    const all = [
      new Counter('a_bytes_total', 'x'),
      gauge('b_ratio', 'x', () => null),
      gaugeBy('c', 'x', ['kind'], read),
      total('d_seconds_total', 'x', () => 1),
      totalBy('bytes_total', 'x', ['kind'], read),
    ];
    expect(all.map(({ type, unit }) => [type, unit])).toEqual([
      ['counter', 'bytes'],
      ['gauge', 'ratio'],
      ['gauge', null],
      ['counter', 'seconds'],
      ['counter', null],
    ]);
    expect(all.map((metric) => metric.samples().length)).toEqual([1, 0, 1, 1, 1]);
  });

  it('text: a failing source loses only its own refresh', async () => {
    const registry = new MetricRegistry();
    registry.add(gauge('one', 'x', () => 1));
    registry.beforeScrape(() => Promise.reject(new Error('gone')));
    expect(await registry.text()).toContain('\none 1\n');
  });

  it('histogramSamples: reads the counts of a BPF map', () => {
    const buckets = [
      { le: 1, count: 2 },
      { le: Infinity, count: 3 },
    ];
    expect(histogramSamples({ dir: 'in' }, { buckets, sum: 9 }).map(({ value }) => value)).toEqual([2, 5, 9, 5]);
  });
});
