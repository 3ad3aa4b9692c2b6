/** Names close to a mistyped one, for errors. Pure. */

const EDITS_MAX = 2;
const SHOWN_MAX = 3;
/** Maximum number of compared names: each comparison takes time. */
const NAMES_MAX = 1000;

/** Returns the nearest names, nearest first: at most two edits away, or one is a prefix of the other. */
export function nearNames(text: string, names: readonly string[]): readonly string[] {
  return names
    .slice(0, NAMES_MAX)
    .map((name) => ({ name, edits: distance(text, name) }))
    .filter(({ name, edits }) => edits <= limitFor(text) || begins(name, text))
    .toSorted((a, b) => a.edits - b.edits || (a.name < b.name ? -1 : 1))
    .slice(0, SHOWN_MAX)
    .map(({ name }) => name);
}

/** More edits than one in three letters make another word of it. */
const limitFor = (text: string): number => Math.min(EDITS_MAX, Math.floor(text.length / 3));

function begins(name: string, text: string): boolean {
  return text !== '' && (name.startsWith(text) || text.startsWith(name));
}

/** Optimal string alignment: insertions, deletions, replacements, and swaps of neighbors. */
function distance(from: string, to: string): number {
  if (Math.abs(from.length - to.length) > EDITS_MAX) return Number.POSITIVE_INFINITY;
  let before: number[] = [];
  let row = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (let line = 1; line <= from.length; line += 1) {
    const next = [line];
    for (let column = 1; column <= to.length; column += 1) {
      const same = from[line - 1] === to[column - 1] ? 0 : 1;
      let edits = Math.min((row[column - 1] ?? 0) + same, (row[column] ?? 0) + 1, (next[column - 1] ?? 0) + 1);
      const isSwap = line > 1 && from[line - 1] === to[column - 2] && from[line - 2] === to[column - 1];
      if (isSwap) edits = Math.min(edits, (before[column - 2] ?? 0) + 1);
      next.push(edits);
    }
    [before, row] = [row, next];
  }
  return row[to.length] ?? 0;
}
