import { styleText } from 'node:util';
import { describe, expect, it } from 'vitest';
import { bytes, coarse, duration, table } from './table.ts';

describe('table', () => {
  it('aligns columns by visible width, ignoring color codes', () => {
    const red = styleText('red', 'no');
    expect(
      table(
        ['a', 'b'],
        [
          [{ style: 'red', text: 'no' }, 'x'],
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

describe('coarse', () => {
  it.each([
    [-5, '0 s'],
    [119_000, '119 s'],
    [120_000, '2 min'],
    [7_199_000, '119 min'],
    [7_200_000, '2 h'],
    [48 * 3_600_000, '2 d'],
  ])('%d ms', (ms, text) => expect(coarse(ms)).toBe(text));
});

describe('bytes', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1536, '1.5 KiB'],
    [120 * 1024 ** 2, '120 MiB'],
    [3 * 1024 ** 5, '3072 TiB'],
  ])('%d', (count, text) => expect(bytes(count)).toBe(text));
});
