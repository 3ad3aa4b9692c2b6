/**
 * Metrics, and their text for Prometheus (exposition format 0.0.4). No globals: each part creates its own beside its
 * code, and the composition root adds them to one `MetricRegistry`.
 *
 *     bridge ── counters, histograms ──┐
 *     control plane ── gauges ─────────┼─► MetricRegistry ── text() ─► GET /metrics
 *     eBPF maps ── histograms as they are ┘
 *
 * Series are bounded: a metric with labels keeps at most `seriesMax` of them, and counts further ones with
 * `other` in every label. Ids of sandboxes, traces and templates are never labels.
 */
import { assert } from './assert.ts';

type Unit = 'seconds' | 'bytes' | 'ratio' | null;

export interface Metric {
  readonly name: string;
  readonly help: string;
  readonly unit: Unit;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly string[];
  samples(): readonly Sample[];
}

interface Sample {
  /** Suffix of the name: `_bucket`, `_sum`, `_count`, or empty. */
  readonly suffix: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

type LabelsOf<Label extends string> = Readonly<Record<Label, string>>;

/** Maximum series of one metric, not counting histogram buckets. */
const SERIES_MAX = 200;
const LABEL_CHARACTERS_MAX = 128;
export const OTHER = 'other';

/** Series by the values of their labels. */
class Series<Label extends string, State> {
  readonly names: readonly Label[];
  readonly #seriesMax: number;
  readonly #make: () => State;
  readonly #all = new Map<string, { labels: LabelsOf<Label>; state: State }>();

  constructor(labels: readonly Label[], seriesMax: number, make: () => State) {
    this.names = labels;
    this.#seriesMax = seriesMax;
    this.#make = make;
  }

  of(labels: LabelsOf<Label>): State {
    const values = this.names.map((name) => cut(labels[name]));
    const known = this.#all.get(values.join('\0'));
    if (known !== undefined) return known.state;
    const isFull = this.#all.size >= this.#seriesMax - 1;
    const kept = isFull ? values.map(() => OTHER) : values;
    return this.#add(kept);
  }

  entries(): readonly { labels: LabelsOf<Label>; state: State }[] {
    return [...this.#all.values()];
  }

  #add(values: readonly string[]): State {
    const key = values.join('\0');
    const known = this.#all.get(key);
    if (known !== undefined) return known.state;
    const pairs = this.names.map((name, index) => [name, values[index] ?? '']);
    const state = this.#make();
    this.#all.set(key, { labels: Object.fromEntries(pairs) as LabelsOf<Label>, state });
    return state;
  }
}

const NO_LABELS = {};

/** What the name ends with, before `_total`; null for a plain count. */
function unitOf(name: string): Unit {
  assert(/^[a-z][a-z0-9_]*$/.test(name), `invalid metric name "${name}"`);
  const [, unit = null] = /_(seconds|bytes|ratio)(?:_total)?$/.exec(name) ?? [];
  return unit as Unit;
}

function cut(value: string): string {
  return value.length <= LABEL_CHARACTERS_MAX ? value : OTHER;
}

/** Name, help and series of a metric that its owner feeds. */
abstract class Fed<Label extends string, State> {
  readonly name: string;
  readonly help: string;
  readonly unit: Unit;
  readonly labels: readonly Label[];
  protected readonly series: Series<Label, State>;

  constructor(name: string, help: string, series: Series<Label, State>) {
    this.name = name;
    this.help = help;
    this.unit = unitOf(name);
    this.labels = series.names;
    this.series = series;
    // Without labels there is one series, from the start.
    if (this.labels.length === 0) series.of(NO_LABELS as LabelsOf<Label>);
  }
}

export class Counter<Label extends string = never> extends Fed<Label, { value: number }> implements Metric {
  readonly type = 'counter';

  constructor(name: string, help: string, labels: readonly Label[] = [], seriesMax = SERIES_MAX) {
    assert(name.endsWith('_total'), `the counter ${name} does not end with _total`);
    super(name, help, new Series(labels, seriesMax, () => ({ value: 0 })));
  }

  /** @param by not negative; ignored if not finite */
  add(labels: LabelsOf<Label>, by = 1): void {
    if (Number.isFinite(by) && by > 0) this.series.of(labels).value += by;
    else if (by === 0) this.series.of(labels);
  }

  samples(): readonly Sample[] {
    return this.series.entries().map(({ labels, state }) => ({ suffix: '', labels, value: state.value }));
  }
}

/** Bucket bounds from 1 ms to 5 min. */
export const SECONDS_BOUNDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
] as const;

/** A histogram with ascending bucket bounds; the last is always `+Inf`. */
export class Histogram<Label extends string = never>
  extends Fed<Label, { counts: number[]; sum: number }>
  implements Metric
{
  readonly type = 'histogram';
  readonly #bounds: readonly number[];

  constructor(
    name: string,
    help: string,
    labels: readonly Label[] = [],
    { bounds = SECONDS_BOUNDS, seriesMax = SERIES_MAX }: { bounds?: readonly number[]; seriesMax?: number } = {},
  ) {
    super(name, help, new Series(labels, seriesMax, () => ({ counts: bounds.map(() => 0).concat(0), sum: 0 })));
    this.#bounds = bounds;
  }

  /** @param times number of observations. Default: 1 */
  observe(labels: LabelsOf<Label>, value: number, times = 1): void {
    if (!Number.isFinite(value) || times < 1) return;
    const state = this.series.of(labels);
    const at = this.#bounds.findIndex((bound) => value <= bound);
    const index = at < 0 ? this.#bounds.length : at;
    state.counts[index] = (state.counts[index] ?? 0) + times;
    state.sum += value * times;
  }

  /** @param counts per bound, plus one for `+Inf` */
  merge(labels: LabelsOf<Label>, counts: readonly number[], sum: number): void {
    assert(counts.length === this.#bounds.length + 1, `${this.name}: counts of other bounds`);
    if (!counts.some((count) => count > 0)) return;
    const state = this.series.of(labels);
    state.counts.forEach((count, index) => {
      state.counts[index] = count + (counts[index] ?? 0);
    });
    state.sum += sum;
  }

  samples(): readonly Sample[] {
    return this.series
      .entries()
      .flatMap(({ labels, state: { counts, sum } }) =>
        histogramSamples(labels, {
          sum,
          buckets: counts.map((count, index) => ({ le: this.#bounds[index] ?? Infinity, count })),
        }),
      );
  }
}

/** A histogram counted elsewhere (in a BPF map). Buckets ascend; counts are per bucket, not cumulative. */
export interface CountedHistogram {
  readonly buckets: readonly { readonly le: number; readonly count: number }[];
  readonly sum: number;
}

export function histogramSamples(
  labels: Readonly<Record<string, string>>,
  { buckets, sum }: CountedHistogram,
): readonly Sample[] {
  let below = 0;
  const cumulative = buckets.map(({ le, count }) => {
    below += count;
    return { suffix: '_bucket', labels: { ...labels, le: numberText(le) }, value: below };
  });
  return [...cumulative, { suffix: '_sum', labels, value: sum }, { suffix: '_count', labels, value: below }];
}

type Read = () => Iterable<readonly [labels: Readonly<Record<string, string>>, value: number]>;

/** A metric whose numbers are kept elsewhere and read at each scrape. */
function collected(type: 'counter' | 'gauge', name: string, help: string, labels: readonly string[], read: Read) {
  const samples = (): readonly Sample[] =>
    [...read()].slice(0, SERIES_MAX).map(([of, value]) => ({ suffix: '', labels: of, value }));
  return { type, name, help, unit: unitOf(name), labels, samples };
}

const oneOf =
  (read: () => number | null): Read =>
  () => {
    const value = read();
    return value === null ? [] : [[{}, value]];
  };

/** Metrics read at each scrape, `…By` with labels; a total is a counter. A value of `null` is not exported. */
export function gauge(name: string, help: string, read: () => number | null): Metric {
  return collected('gauge', name, help, [], oneOf(read));
}

export function gaugeBy(name: string, help: string, labels: readonly string[], read: Read): Metric {
  return collected('gauge', name, help, labels, read);
}

export function total(name: string, help: string, read: () => number | null): Metric {
  return collected('counter', name, help, [], oneOf(read));
}

export function totalBy(name: string, help: string, labels: readonly string[], read: Read): Metric {
  return collected('counter', name, help, labels, read);
}

export class MetricRegistry {
  readonly #metrics: Metric[] = [];
  readonly #refreshers: (() => Promise<void>)[] = [];

  add(...metrics: readonly Metric[]): void {
    for (const metric of metrics) {
      assert(!this.#metrics.some(({ name }) => name === metric.name), `${metric.name} twice`);
      this.#metrics.push(metric);
    }
  }

  /** Calls `refresh` before each scrape. It should not reject, and must be bounded in time. */
  beforeScrape(refresh: () => Promise<void>): void {
    this.#refreshers.push(refresh);
  }

  list(): readonly Metric[] {
    return this.#metrics;
  }

  /** The text for Prometheus. Never rejects: a failed source keeps its last values. */
  async text(): Promise<string> {
    await Promise.allSettled(this.#refreshers.map((refresh) => refresh()));
    return this.#metrics.map(familyText).join('');
  }
}

export const EXPOSITION_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

function familyText(metric: Metric): string {
  const { name, help, type } = metric;
  const lines = metric.samples().map(({ suffix, labels, value }) => {
    const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escaped(text)}"`);
    const set = pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
    return `${name}${suffix}${set} ${numberText(value)}\n`;
  });
  const helpText = help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
  return `# HELP ${name} ${helpText}\n# TYPE ${name} ${type}\n${lines.join('')}`;
}

function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"');
}

function numberText(value: number): string {
  if (value === Infinity) return '+Inf';
  if (value === -Infinity) return '-Inf';
  return String(value);
}
