/**
 * A benchmark: rounds of samples of a figure, with samples of its baseline from the same run. `neurovisor bench` prints
 * the result; nothing here judges it.
 */

import type { Config } from '../src/base/config.ts';
import type { Log } from '../src/base/log.ts';
import { percentile } from '../src/base/statistics.ts';
import type { Runtime } from '../src/host/runtime/runtime.ts';

export interface BenchContext {
  readonly runtime: Runtime;
  readonly config: Config;
  /** A benchmark may take several samples per round. */
  readonly rounds: number;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** Whether a figure was requested; others need not be measured. */
  wants(name: string): boolean;
  /** Shows one short line of progress. */
  say(text: string): void;
}

export interface Measurement {
  readonly name: string;
  readonly unit: 'ms' | 'µs' | 'ns' | 'MB/s' | '1/s' | 'MiB' | 'instructions' | 'M instructions' | 'index';
  /** The accelerator of the guest; `none` without a guest. */
  readonly accelerator: string;
  /** Empty if every attempt failed. */
  readonly samples: readonly number[];
  readonly baseline: { readonly name: string; readonly samples: readonly number[] } | null;
  /** Failed attempts. Default 0. */
  readonly failed?: number;
  /** Why there is no baseline, or what the figure includes. */
  readonly note?: string | undefined;
}

export interface Benchmark {
  /** The figures of one run; `figure/parameter` if there are several of one kind. */
  readonly names: readonly string[];
  /** One line for `--help`. */
  readonly summary: string;
  /** The benchmark starts no VM: its context has no runtime, and it needs no set-up. */
  readonly withoutRuntime?: true;
  measure(context: BenchContext): Promise<readonly Measurement[]>;
}

export interface BenchResult {
  readonly name: string;
  readonly unit: string;
  readonly accelerator: string;
  readonly n: number;
  /** `null` without samples. */
  readonly p50: number | null;
  readonly p95: number | null;
  /** Share of successful attempts, 0 … 1. */
  readonly success: number;
  readonly baseline: { readonly name: string; readonly p50: number | null; readonly p95: number | null } | null;
  /** p50 divided by the baseline's p50. */
  readonly ratio: number | null;
  readonly note: string | null;
}

export function resultOf(measurement: Measurement): BenchResult {
  const { name, unit, accelerator, samples, baseline, failed = 0, note = null } = measurement;
  const own = middleAndTail(samples);
  const base = baseline === null ? null : { name: baseline.name, ...middleAndTail(baseline.samples) };
  return {
    name,
    unit,
    accelerator,
    n: samples.length,
    ...own,
    success: samples.length === 0 ? 0 : samples.length / (samples.length + failed),
    baseline: base,
    ratio: base === null ? null : ratioOf(own.p50, base.p50),
    note,
  };
}

function middleAndTail(samples: readonly number[]): Pick<BenchResult, 'p50' | 'p95'> {
  return { p50: percentile(samples, 50) ?? null, p95: percentile(samples, 95) ?? null };
}

function ratioOf(own: number | null, base: number | null): number | null {
  return own === null || base === null || base === 0 ? null : own / base;
}

/** @param wanted figures, or prefixes up to a dot or slash; if empty, all */
export function isWanted(name: string, wanted: readonly string[]): boolean {
  const isPart = (one: string): boolean => name === one || name.startsWith(`${one}.`) || name.startsWith(`${one}/`);
  return wanted.length === 0 || wanted.some(isPart);
}
