import { describe, expect, it } from 'vitest';
import { KIB, MIB } from '../../../base/units.ts';
import { DISK_REQUEST_BYTES_MAX, diskLimit } from './config.ts';

describe('diskLimit', () => {
  const rates = [64 * KIB, MIB, 12 * MIB, 13 * MIB, 500 * MIB];

  it('diskLimit: at any rate, the bucket of bytes holds the largest request of a guest', () => {
    for (const bytesPerSecond of rates) {
      const { bandwidth } = diskLimit({ bytesPerSecond });
      expect(bandwidth?.size).toBeGreaterThanOrEqual(DISK_REQUEST_BYTES_MAX);
      expect(bandwidth?.refillPerSecond).toBe(bytesPerSecond);
    }
  });

  it('diskLimit: allows a burst of a tenth of a second, if that is more than a request', () => {
    expect(diskLimit({ bytesPerSecond: 500 * MIB, opsPerSecond: 1000 })).toEqual({
      bandwidth: { size: 50 * MIB, refillPerSecond: 500 * MIB },
      ops: { size: 100, refillPerSecond: 1000 },
    });
    expect(diskLimit({})).toEqual({});
  });
});
