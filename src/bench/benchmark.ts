/**
 * What a benchmark is: rounds of samples of one figure, with the samples of its baseline taken in the
 * same run. `neurovisor bench` prints the result; nothing here decides whether a figure is good.
 */
import type { Log } from '../base/log.ts';
import type { Config } from '../config.ts';
import type { Runtime } from '../runtime/runtime.ts';

export interface BenchContext {
  readonly runtime: Runtime;
  readonly config: Config;
  /** How often each thing is measured; a benchmark may need several samples per round. */
  readonly rounds: number;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** One short line about what is being done. */
  say(text: string): void;
}

export interface Measurement {
  readonly name: string;
  readonly unit: 'ms' | 'µs' | 'MB/s' | 'MiB';
  /** What executed guest code while this was measured; `none` where no guest took part. */
  readonly accelerator: string;
  readonly samples: readonly number[];
  readonly baseline: { readonly name: string; readonly samples: readonly number[] } | null;
  /** Why there is no baseline, or what the figure includes. */
  readonly note?: string;
}

export interface Benchmark {
  /** The figures that one run of this gives. */
  readonly names: readonly string[];
  /** What is measured, in one line for `--help`. */
  readonly summary: string;
  measure(context: BenchContext): Promise<readonly Measurement[]>;
}

export interface BenchResult {
  readonly name: string;
  readonly unit: string;
  readonly accelerator: string;
  readonly n: number;
  readonly p50: number;
  readonly p95: number;
  readonly baseline: { readonly name: string; readonly p50: number; readonly p95: number } | null;
  /** p50 divided by the baseline's p50. */
  readonly ratio: number | null;
  readonly note: string | null;
}

export function resultOf(measurement: Measurement): BenchResult {
  const { samples, baseline } = measurement;
  const p50 = percentile(samples, 50);
  const base =
    baseline === null
      ? null
      : {
          name: baseline.name,
          p50: percentile(baseline.samples, 50),
          p95: percentile(baseline.samples, 95),
        };
  return {
    name: measurement.name,
    unit: measurement.unit,
    accelerator: measurement.accelerator,
    n: samples.length,
    p50,
    p95: percentile(samples, 95),
    baseline: base,
    ratio: base === null ? null : p50 / base.p50,
    note: measurement.note ?? null,
  };
}

/** Nearest rank. @param samples at least one */
export function percentile(samples: readonly number[], percent: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const rank = Math.max(1, Math.ceil((percent / 100) * sorted.length));
  const value = sorted[rank - 1];
  if (value === undefined) throw new Error('a percentile of no samples');
  return value;
}
