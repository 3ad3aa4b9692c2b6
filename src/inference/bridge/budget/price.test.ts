import { describe, expect, it } from 'vitest';
import { dollarsText, parseDollars } from '../../../base/text/dollars.ts';
import { costOf, dollarPrice, parsePrice } from './price.ts';

describe('prices', () => {
  it.each([
    [2.5, 2_500_000],
    [0, 0],
    [0.018_75, 18_750],
    [0.1, 100_000],
    [0.000_001, 1],
    [100_000, 100_000_000_000],
  ])('parsePrice: accepts %d dollars for a million tokens', (dollars, price) => {
    expect(parsePrice(dollars)).toBe(price);
    const written = dollarPrice({ input: price, output: 0, cachedInput: 0 });
    expect(written).toEqual({ input: dollars, output: 0, cachedInput: 0 });
  });

  it.each([-1, -0.5, 100_000.5, 1e21, 0.000_000_1, 0.100_000_1, Number.NaN, Number.POSITIVE_INFINITY])(
    'parsePrice: rejects %d',
    (dollars) => {
      expect(parsePrice(dollars)).toBeNull();
    },
  );

  it('costOf: counts the prompt, its cached part and the answer, each at its price', () => {
    const price = { input: 2_500_000, output: 10_000_000, cachedInput: 250_000 };
    const counts = { promptTokens: 1e6, completionTokens: 1e6 };
    expect(dollarsText(costOf(price, counts))).toBe('12.5');
    expect(dollarsText(costOf(price, { ...counts, cachedTokens: 400_000 }))).toBe('11.6');
    expect(costOf(price, { ...counts, cachedTokens: 5e6 })).toBe(10_250_000_000);
  });

  it('costOf: rounds a part of a billionth up', () => {
    const price = { input: 1, output: 0, cachedInput: 0 };
    expect(costOf(price, { promptTokens: 1, completionTokens: 9 })).toBe(1);
    expect(costOf(price, { promptTokens: 1000, completionTokens: 9 })).toBe(1);
    expect(costOf(price, { promptTokens: 1001, completionTokens: 9 })).toBe(2);
  });
});

describe('dollars', () => {
  it.each([
    ['5', 5_000_000_000, '5'],
    ['0.25', 250_000_000, '0.25'],
    ['1000000', 1e15, '1000000'],
    ['0.000000001', 1, '0.000000001'],
    ['12.340', 12_340_000_000, '12.34'],
  ])('parseDollars, dollarsText: %s', (text, nano, shown) => {
    expect(parseDollars(text)).toBe(nano);
    expect(dollarsText(nano)).toBe(shown);
  });

  it.each(['', '-1', '.5', '5.', '1e3', '0x10', '$5', '1 ', '0.0000000001'])('parseDollars: rejects "%s"', (text) => {
    expect(parseDollars(text)).toBeNull();
  });
});
