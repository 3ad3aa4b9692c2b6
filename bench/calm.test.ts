import { describe, expect, it } from 'vitest';
import { busyShare } from './calm.ts';

describe('busy share', () => {
  it('is the share of non-idle time of all processors between two readings', () => {
    const before = { idleMs: 1000, allMs: 2000 };
    expect(busyShare(before, { idleMs: 1180, allMs: 2200 })).toBeCloseTo(0.1);
    expect(busyShare(before, { idleMs: 1000, allMs: 2200 })).toBe(1);
    expect(busyShare(before, before)).toBe(0);
  });
});
