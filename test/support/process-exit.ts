/** Ends a program that succeeded. */
import type { ProcessExit } from '../../src/machine/guest/link.ts';

export const EXIT: ProcessExit = {
  exitCode: 0,
  signal: null,
  timedOut: false,
  oomKilled: false,
  oomVictim: null,
  truncated: false,
  durationMs: 1,
};
