/** `--model-cache`: answers of models that equal requests get again. */
import type { ModelCache } from '../../base/request/model-limits.ts';
import { MIB } from '../../base/units.ts';
import { RANGES } from '../../sandbox/contract/limits.ts';
import { UsageError } from '../failure.ts';
import { sized, timed } from './ranges.ts';

const ttlRange = timed('--model-cache', RANGES.modelCacheTtlMs);
/** MiB */
const sizeRange = sized('--model-cache-size', { min: 1, max: 64 * 1024 });

/** Reads `--model-cache` of a sandbox: `10m`, `10m,all`. @throws UsageError */
export function parseModelCache(text: string): ModelCache {
  const [ttl = '', requests, ...more] = text.split(',');
  if (more.length > 0 || (requests !== undefined && requests !== 'all')) {
    const remedy = 'use a time, for example 10m, or 10m,all for every request';
    throw new UsageError(`invalid --model-cache "${text.slice(0, 80)}"`, remedy);
  }
  const ttlMs = ttlRange(ttl);
  return requests === undefined ? { ttlMs } : { ttlMs, requests };
}

/** Reads `--model-cache-size` of the daemon: `512M` → bytes; `none` → 0. @throws UsageError */
export const parseCacheSize = (text: string): number => (text === 'none' ? 0 : sizeRange(text) * MIB);
