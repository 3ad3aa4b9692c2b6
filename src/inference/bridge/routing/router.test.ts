import { describe, expect, it } from 'vitest';
import { retryAfterMs } from './router.ts';

describe('retryAfterMs', () => {
  const wall = Date.parse('Tue, 03 Jun 2025 10:00:00 GMT');
  it.each([
    [{ 'retry-after': '7' }, 7_000],
    [{ 'retry-after': '0' }, 0],
    [{ 'retry-after': '1.5' }, 1_500],
    [{ 'retry-after-ms': '250', 'retry-after': '7' }, 250],
    [{ 'retry-after': 'Tue, 03 Jun 2025 10:00:30 GMT' }, 30_000],
    [{ 'retry-after': 'Tue, 03 Jun 2025 09:00:00 GMT' }, 0],
    [{}, null],
    [{ 'retry-after': '-1' }, null],
    [{ 'retry-after': '1e9' }, null],
    [{ 'retry-after': 'soon' }, null],
    [{ 'retry-after': '99999999999' }, null],
    [{ 'retry-after': ['1', '2'] }, null],
  ])('%j is %s', (headers, expected) => {
    expect(retryAfterMs(headers, wall)).toBe(expected);
  });
});
