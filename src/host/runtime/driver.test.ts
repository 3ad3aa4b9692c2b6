import { expect, it } from 'vitest';
import { DEFAULTS } from '../../sandbox/contract/limits.ts';
import { sharedMibMax } from './driver.ts';

it('sharedMibMax: on an 8 GiB host, less the kernel’s own memory, a default sandbox shares memory', () => {
  expect(sharedMibMax(7500)).toBeGreaterThanOrEqual(DEFAULTS.memoryMib);
  expect(sharedMibMax(7500)).toBeLessThan(2 * DEFAULTS.memoryMib);
});
