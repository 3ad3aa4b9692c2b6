/** Plain aligned columns, as `kubectl` prints them: upper-case heads, two spaces between. */
import { styleText } from 'node:util';
import { plain } from '../../base/text/plain.ts';

export { bytes } from '../../base/text/bytes.ts';

/** A text in a color. Escape sequences in the text itself would be replaced. */
export interface Styled {
  readonly style: Parameters<typeof styleText>[0];
  readonly text: string;
}

type Cell = string | Styled;

const shownText = (cell: Cell): string => plain(typeof cell === 'string' ? cell : cell.text);

const styledText = (cell: Cell): string =>
  typeof cell === 'string' ? plain(cell) : styleText(cell.style, plain(cell.text));

/** @param rows may hold text of a guest, a VMM or a model server */
export function table(heads: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const all: (readonly Cell[])[] = [heads.map((head) => head.toUpperCase()), ...rows];
  const width = (cell: Cell = ''): number => shownText(cell).length;
  const widths = heads.map((_, column) => Math.max(...all.map((row) => width(row[column]))));
  return all
    .map((row) =>
      row
        .map((cell, column) => styledText(cell) + ' '.repeat((widths[column] ?? 0) - width(cell)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `850 ms`, `12.3 s`, `4 min 05 s`. */
export function duration(ms: number): string {
  if (ms < 1) return `${(ms * 1000).toFixed(0)} µs`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, '0')} s`;
}

/** In one unit, for lists: `12 s`, `4 min`, `3 h`, `2 d`. */
export function coarse(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}
