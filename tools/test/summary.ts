/** The end of the runner's output: times, skips, failures, and the closing line that CI reads. */
import { duration, table } from '../../src/cli/output/table.ts';
import { type Failure, type Skip, titleOf } from './report.ts';
import type { LayerResult } from './results.ts';
import type { Doubled } from './times.ts';
import type { FileTime, Outcome } from './verdict.ts';

/** Number of slowest files listed per layer. */
const SLOWEST = 5;
/** Maximum number of tests with the same reason that are listed one by one. */
const SKIPS_LISTED = 5;
/** Maximum length of a repeated failure message. */
const MESSAGE_MAX = 2000;

export function counts(outcome: Pick<Outcome, 'passed' | 'failed' | 'skipped'>): string {
  const { passed, failed, skipped } = outcome;
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

export function sum(outcomes: readonly Outcome[]): Outcome {
  const add = (pick: (outcome: Outcome) => number): number =>
    outcomes.reduce((total, outcome) => total + pick(outcome), 0);
  return {
    passed: add(({ passed }) => passed),
    failed: add(({ failed }) => failed),
    skipped: add(({ skipped }) => skipped),
    failures: outcomes.flatMap(({ failures }) => failures),
    unsteady: outcomes.flatMap(({ unsteady }) => unsteady),
    skips: outcomes.flatMap(({ skips }) => skips),
    files: outcomes.flatMap(({ files }) => files),
  };
}

export interface RunEnd {
  /** In the order in which they ended, including those of an earlier part of the run. */
  readonly layers: readonly LayerResult[];
  readonly doubled: readonly Doubled[];
  readonly seed: number;
  /** Path of the list of unsteady tests. */
  readonly listPath: string;
  /** Another part of the run follows, which prints the closing line. */
  readonly isContinued: boolean;
}

export function endOf({ layers, doubled, seed, listPath, isContinued }: RunEnd): string {
  const outcome = sum(layers.map((layer) => layer.outcome));
  const { failures, unsteady } = outcome;
  const parts = [
    layerTable(layers),
    doubledTable(doubled),
    skipTable(outcome.skips),
    ...failures.map((failure) => told('FAILED', failure)),
    ...unsteady.map((failure) => told('UNSTEADY', failure)),
  ];
  const lines: string[] = [];
  if (failures.length > 0) {
    const paths = [...new Set(failures.map(({ file }) => file))].filter((file) => /\./.test(file));
    lines.push(`repeat: NEUROVISOR_SEED=${seed} ./neurovisor test ${paths.join(' ')}`.trimEnd());
  }
  if (unsteady.length > 0) {
    lines.push(`${unsteady.length} unsteady: ${unsteady.map(titleOf).join('; ')} (${listPath})`);
  }
  lines.push(`${isContinued ? 'so far: ' : ''}${counts(outcome)}`);
  return `${parts.filter((part) => part !== '').join('\n')}\n${lines.join('\n')}\n`;
}

/** A line per layer, and its slowest files. */
export function layerTable(layers: readonly LayerResult[]): string {
  if (layers.length === 0) return '';
  const rows = layers.map(({ layer, tookMs, outcome }) => {
    const tests = outcome.passed + outcome.failed + outcome.unsteady.length;
    return [layer, `${outcome.files.length}`, `${tests}`, (tookMs / 60_000).toFixed(1)];
  });
  const slowest = layers.flatMap(({ layer, outcome }) => slowestOf(layer, outcome.files));
  const list = slowest.length === 0 ? '' : `\nslowest files:\n${slowest.join('')}`;
  return `\n${table(['layer', 'files', 'tests', 'minutes'], rows)}\n${list}`;
}

function slowestOf(layer: string, files: readonly FileTime[]): readonly string[] {
  if (files.length <= 1) return [];
  return files
    .toSorted((a, b) => b.durationMs - a.durationMs)
    .slice(0, SLOWEST)
    .map(({ file, durationMs }) => `  ${layer.padEnd(9)} ${duration(durationMs).padStart(11)}  ${file}\n`);
}

/**
 * Lists files whose duration doubled, which is a change of the product or of the test: on a busy machine all files do.
 */
export function doubledTable(doubled: readonly Doubled[]): string {
  if (doubled.length === 0) return '';
  const rows = doubled.map(
    ({ file, durationMs, usualMs }) => `  ${file}: ${duration(durationMs)}, usually ${duration(usualMs)}\n`,
  );
  return `\ntook twice as long as usual:\n${rows.join('')}`;
}

/** One line per test, or one per reason that many share. */
export function skipTable(skips: readonly Skip[]): string {
  if (skips.length === 0) return '';
  const lines: string[] = [];
  for (const [reason, those] of Map.groupBy(skips, (skip) => skip.reason)) {
    if (those.length <= SKIPS_LISTED) {
      lines.push(...those.map((skip) => `  ${titleOf(skip)}: ${reason}\n`));
    } else {
      const files = [...new Set(those.map(({ file }) => file))].join(', ');
      lines.push(`  ${those.length} tests in ${files}: ${reason}\n`);
    }
  }
  return `\nskipped:\n${lines.join('')}`;
}

function told(head: string, failure: Failure): string {
  const { message } = failure;
  const text = message.length > MESSAGE_MAX ? `${message.slice(0, MESSAGE_MAX)}…` : message;
  return `\n${head}: ${titleOf(failure)}\n${text.replace(/^/gm, '    ')}\n`;
}
