/** Parses `/metrics` (exposition format 0.0.4) and ignores unknown lines. Pure. */

export interface MetricSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** One histogram with its series added up. Counts are per bucket, not cumulative. */
export interface Distribution {
  /** `le` in the metric's unit; the last is Infinity. */
  readonly buckets: readonly { readonly le: number; readonly count: number }[];
  readonly count: number;
}

export class Samples {
  readonly #byName = new Map<string, MetricSample[]>();

  constructor(text: string) {
    for (const line of text.split('\n')) {
      const sample = parseSample(line);
      if (sample === null) continue;
      const known = this.#byName.get(sample.name);
      if (known === undefined) this.#byName.set(sample.name, [sample]);
      else known.push(sample);
    }
  }

  /** Returns the sum of all series with these labels. */
  sum(name: string, labels: Readonly<Record<string, string>> = {}): number {
    return this.#named(name, labels).reduce((total, { value }) => total + value, 0);
  }

  distribution(name: string, of: Readonly<Record<string, string>> = {}): Distribution {
    const cumulative = new Map<number, number>();
    for (const { labels, value } of this.#named(`${name}_bucket`, of)) {
      const le = numberOf(labels['le'] ?? '');
      cumulative.set(le, (cumulative.get(le) ?? 0) + value);
    }
    let below = 0;
    const buckets = [...cumulative]
      .sort(([a], [b]) => a - b)
      .map(([le, upTo]) => {
        const count = upTo - below;
        below = upTo;
        return { le, count };
      });
    return { buckets, count: below };
  }

  #named(name: string, labels: Readonly<Record<string, string>>): readonly MetricSample[] {
    const pairs = Object.entries(labels);
    const fits = (sample: MetricSample): boolean => pairs.every(([key, value]) => sample.labels[key] === value);
    return (this.#byName.get(name) ?? []).filter(fits);
  }
}

/** Returns the values since `earlier`. */
export function since(later: Distribution, earlier: Distribution): Distribution {
  const before = new Map(earlier.buckets.map(({ le, count }) => [le, count]));
  const buckets = later.buckets.map(({ le, count }) => ({ le, count: Math.max(0, count - (before.get(le) ?? 0)) }));
  return { buckets, count: buckets.reduce((sum, { count }) => sum + count, 0) };
}

/** Interpolates within a bucket; in the last one, returns its lower bound. Null: no values. */
export function quantile({ buckets, count }: Distribution, fraction: number): number | null {
  if (count === 0) return null;
  const rank = fraction * count;
  let below = 0;
  let from = 0;
  for (const { le, count: here } of buckets) {
    if (here > 0 && below + here >= rank) {
      return Number.isFinite(le) ? from + ((le - from) * Math.max(rank - below, 0)) / here : from;
    }
    below += here;
    if (Number.isFinite(le)) from = le;
  }
  return from;
}

function parseSample(line: string): MetricSample | null {
  const match = /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\S+)$/.exec(line);
  if (match === null) return null;
  const [, name = '', set = '', text = ''] = match;
  const value = numberOf(text);
  if (Number.isNaN(value)) return null;
  const pairs = set.matchAll(/([a-z_][a-z0-9_]*)="((?:[^"\\]|\\.)*)"/g);
  return { name, labels: Object.fromEntries([...pairs].map(([, key, of]) => [key, of])), value };
}

function numberOf(text: string): number {
  return text === '+Inf' ? Infinity : Number(text);
}
