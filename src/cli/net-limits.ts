/** `--net-limit`: how much a sandbox may have of its network. */
import { LIMITS, type NetworkLimits } from '../sandbox/spec.ts';
import { type LimitWord, parseLimits } from './limit-words.ts';
import { parseCount, parseRate } from './options.ts';

const RATE = { min: LIMITS.networkBytesPerSecondMin, max: LIMITS.networkBytesPerSecondMax };
const WORDS: Readonly<Record<string, LimitWord<keyof NetworkLimits>>> = {
  bytes: { field: 'bytesMax', parse: parseRate, min: 1, max: LIMITS.networkBytesMax },
  up: { field: 'uploadBytesPerSecond', parse: parseRate, ...RATE },
  down: { field: 'downloadBytesPerSecond', parse: parseRate, ...RATE },
  connections: {
    field: 'connectionsMax',
    parse: parseCount,
    min: 1,
    max: LIMITS.networkConnectionsMax,
  },
};

/**
 * `bytes=1G,up=5M`; several options are one list, and `none` alone is no limit at all.
 * @returns undefined: the option was not given
 * @throws UsageError
 */
export function parseNetLimits(texts: readonly string[]): NetworkLimits | undefined {
  return parseLimits('--net-limit', WORDS, 'bytes=1G,up=5M,down=20M,connections=100', texts);
}
