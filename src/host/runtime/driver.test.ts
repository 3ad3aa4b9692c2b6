import { expect, it } from 'vitest';
import { DEFAULTS } from '../../sandbox/contract/spec.ts';
import { sharedMibMax } from './driver.ts';

it('a default sandbox shares memory on a host of 8 GiB, what the kernel keeps for itself taken off', () => {
  expect(sharedMibMax(7500)).toBeGreaterThanOrEqual(DEFAULTS.memoryMib);
  expect(sharedMibMax(7500)).toBeLessThan(2 * DEFAULTS.memoryMib);
});
