import fc from 'fast-check';
import { expect, it } from 'vitest';
import { CHAIN_START, ChainCheck, type ChainEnd, lineHash } from './audit-record.ts';

function chain(statuses: readonly number[]): { lines: string[]; end: ChainEnd } {
  let end = CHAIN_START;
  const lines = statuses.map((status) => {
    const rest = { at: '', tenant: null, key: null, call: 'x', target: null, ms: 0 };
    const line = JSON.stringify({ seq: end.seq + 1, status, ...rest, prev: end.hash });
    end = { seq: end.seq + 1, hash: lineHash(line) };
    return line;
  });
  return { lines, end };
}

function isWhole(lines: readonly string[], end: ChainEnd): boolean {
  const check = new ChainCheck(end, CHAIN_START);
  for (const [index, line] of lines.entries()) check.add(line, `line ${index + 1}`);
  return check.end().problemCount === 0;
}

it('finds any change of a log, and nothing in an unchanged log', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 100, max: 599 }), { minLength: 1, maxLength: 20 }),
      fc.constantFrom('drop', 'swap', 'repeat', 'edit', 'insert'),
      fc.nat(),
      fc.nat(),
      fc.string({ unit: 'grapheme-ascii', minLength: 1, maxLength: 1 }),
      (statuses, kind, first, second, letter) => {
        const { lines, end } = chain(statuses);
        expect(isWhole(lines, end)).toBe(true);
        const [a, b] = [first % lines.length, second % lines.length];
        const line = lines[a] ?? '';
        const at = second % line.length;
        const changed = {
          drop: lines.toSpliced(a, 1),
          swap: lines.with(a, lines[b] ?? '').with(b, line),
          repeat: lines.toSpliced(b, 0, line),
          edit: lines.with(a, line.slice(0, at) + letter + line.slice(at + 1)),
          insert: lines.toSpliced(b, 0, chain([...statuses, 100]).lines.at(-1) ?? ''),
        }[kind];
        const isSame = changed.join('\n') === lines.join('\n');
        expect(isWhole(changed, end)).toBe(isSame);
      },
    ),
    { numRuns: 500 },
  );
});
