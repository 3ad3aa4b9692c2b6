/** Colors the verdict of a check. Pure. */
import { styleText } from 'node:util';

const COLORS = { ok: 'green', limited: 'yellow', missing: 'red', unused: 'dim' } as const;

export const verdictText = (verdict: keyof typeof COLORS): string =>
  styleText(COLORS[verdict], verdict);
