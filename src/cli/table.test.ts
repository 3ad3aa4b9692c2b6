import { styleText } from 'node:util';
import { describe, expect, it } from 'vitest';
import { duration, table } from './table.ts';

describe('table', () => {
  it('aligns columns by what is seen, not by colour codes', () => {
    const red = styleText('red', 'no', { validateStream: false });
    expect(
      table(
        ['a', 'b'],
        [
          [red, 'x'],
          ['longer', 'y'],
        ],
      ),
    ).toBe(['A       B', `${red}      x`, 'longer  y'].join('\n'));
  });
});

describe('duration', () => {
  it.each([
    [0.25, '250 µs'],
    [850, '850 ms'],
    [12_340, '12.3 s'],
    [245_000, '4 min 05 s'],
  ])('%d ms', (ms, text) => expect(duration(ms)).toBe(text));
});
