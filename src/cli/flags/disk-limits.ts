/** `--disk-limit`: the disk limits of a sandbox. */
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import { RANGES } from '../../sandbox/contract/limits.ts';
import { type LimitWord, parseLimits } from './limit-list.ts';
import { parseCount, parseRate } from './options.ts';

const WORDS: Readonly<Record<string, LimitWord<keyof DiskLimits>>> = {
  rate: { field: 'bytesPerSecond', parse: parseRate, ...RANGES.diskBytesPerSecond },
  iops: { field: 'opsPerSecond', parse: parseCount, ...RANGES.diskOpsPerSecond },
};

/**
 * `rate=20M,iops=500`; several options form one list; `none` alone removes all limits.
 * @returns undefined: the option was not given
 * @throws UsageError
 */
export function parseDiskLimits(texts: readonly string[]): DiskLimits | undefined {
  return parseLimits('--disk-limit', WORDS, 'rate=20M,iops=500', texts);
}
