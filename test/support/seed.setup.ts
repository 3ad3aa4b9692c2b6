/** A Vitest set-up file: properties use the seed of the run, and a failure says how to repeat it. */
import fc from 'fast-check';
import { repeatLine } from './repeat-line.ts';
import { runSeed } from './run-seed.ts';

fc.configureGlobal({
  seed: runSeed(),
  reporter: (details) => {
    if (!details.failed) return;
    throw new Error(`${fc.defaultReportMessage(details)}\n${repeatLine()}`, { cause: details.errorInstance });
  },
});
