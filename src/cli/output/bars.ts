/** Draws the rows of a histogram as bars of text. Pure. */
import { inUnits } from '../../base/text/bytes.ts';

/** The longest bar, characters. */
const BAR_CHARACTERS = 40;
const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const;

export interface Bar {
  readonly label: string;
  readonly count: number;
}

/** Returns one line per row; a count above 0 has a visible bar. */
export function bars(rows: readonly Bar[]): string[] {
  const most = Math.max(...rows.map(({ count }) => count), 1);
  const width = Math.max(...rows.map(({ label }) => label.length), 0);
  return rows.map(({ label, count }) => {
    const bar = count === 0 ? '' : `${barOf(count / most)} `;
    return `${label.padStart(width)}  ${bar}${count}`;
  });
}

function barOf(share: number): string {
  const eighths = Math.max(Math.round(share * BAR_CHARACTERS * 8), 1);
  return '█'.repeat(eighths >> 3) + (EIGHTHS[eighths & 7] ?? '');
}

/** Formats a latency: `850 ns`, `12 µs`, `16.8 ms`, `1.1 s`. */
export function nanoseconds(ns: number): string {
  return inUnits(ns, 1000, ['ns', 'µs', 'ms', 's']);
}
