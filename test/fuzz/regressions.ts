/**
 * Runs a target as a short test: first every input that once failed, then new ones. An input that fails is
 * saved, to be committed with the fix.
 */
import fc from 'fast-check';
import { repeatLine } from '../support/repeat-line.ts';
import { replay, saveInput } from './saved-inputs.ts';
import { type FuzzTarget, propertyOf } from './target.ts';

export function runTarget(target: FuzzTarget): void {
  replay(target);
  fc.assert(propertyOf(target), {
    numRuns: target.runs,
    reporter: (details) => {
      if (!details.failed) return;
      const path = saveInput(target.name, details.counterexample?.[0]);
      const text = fc.defaultReportMessage(details);
      throw new Error(`${text}\n${repeatLine()}\nsaved in ${path}: commit it with the fix`, {
        cause: details.errorInstance,
      });
    },
  });
}
