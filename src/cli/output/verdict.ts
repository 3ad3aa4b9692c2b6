/** What was found of one thing that a machine has or lacks, for people. Pure. */
import { styleText } from 'node:util';

const COLOURS = { ok: 'green', limited: 'yellow', missing: 'red', unused: 'dim' } as const;

export const verdictText = (verdict: keyof typeof COLOURS): string =>
  styleText(COLOURS[verdict], verdict);
