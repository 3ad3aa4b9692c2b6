import { describe, expect, it } from 'vitest';
import { bars, nanoseconds } from './bars.ts';

describe('bars', () => {
  it('scale with their counts, and are visible for any count above 0', () => {
    const [most, half, few, none] = bars([
      { label: 'a', count: 8000 },
      { label: 'long', count: 4000 },
      { label: 'b', count: 1 },
      { label: 'c', count: 0 },
    ]);
    expect(most).toBe(`   a  ${'█'.repeat(40)} 8000`);
    expect(half).toBe(`long  ${'█'.repeat(20)} 4000`);
    expect(few).toBe('   b  ▏ 1');
    expect(none).toBe('   c  0');
  });

  it('are empty without rows', () => {
    expect(bars([])).toEqual([]);
  });
});

describe('nanoseconds', () => {
  it.each([
    [0, '0 ns'],
    [999, '999 ns'],
    [1024, '1.0 µs'],
    [16_777_216, '16.8 ms'],
    [134_217_728, '134 ms'],
    [3.2e12, '3200 s'],
  ])('%d', (ns, text) => expect(nanoseconds(ns)).toBe(text));
});
