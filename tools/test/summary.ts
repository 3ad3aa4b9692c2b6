/** The end of the runner's output: times, skips, failures, and the closing line that CI reads. */
import { duration } from '../../src/cli/output/table.ts';
import { type Failure, type Skip, titleOf } from './report.ts';
import type { FileTime, Outcome } from './verdict.ts';

const SLOWEST = 15;
/** Tests with the same reason that are listed one by one. */
const SKIPS_LISTED = 5;
/** Characters of a failure's message that are repeated. */
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

/** @param listPath where unsteady tests are kept */
export function endOf(outcome: Outcome, seed: number, listPath: string): string {
  const { failures, unsteady } = outcome;
  const parts = [
    slowest(outcome.files),
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
  lines.push(counts(outcome));
  return `${parts.filter((part) => part !== '').join('\n')}\n${lines.join('\n')}\n`;
}

export function slowest(files: readonly FileTime[]): string {
  if (files.length <= 1) return '';
  const rows = [...files]
    .sort((a, b) => b.durationMs - a.durationMs)
    .slice(0, SLOWEST)
    .map(({ file, durationMs }) => `  ${duration(durationMs).padStart(11)}  ${file}\n`);
  return `\nslowest files:\n${rows.join('')}`;
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
