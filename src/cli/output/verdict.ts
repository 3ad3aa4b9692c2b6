/** Colors the verdict of a check in a table. Pure. */
import type { Styled } from './table.ts';

const COLORS = { ok: 'green', limited: 'yellow', missing: 'red', unused: 'dim' } as const;

export const verdictText = (verdict: keyof typeof COLORS): Styled => ({ style: COLORS[verdict], text: verdict });
