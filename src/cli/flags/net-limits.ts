/** `--net-limit`: the network limits of a sandbox. */
import { RANGES } from '../../sandbox/contract/limits.ts';
import type { NetworkLimits } from '../../sandbox/contract/network-spec.ts';
import { type LimitWord, parseLimits } from './limit-list.ts';
import { parseCount, parseRate } from './options.ts';

const RATE = { parse: parseRate, ...RANGES.networkBytesPerSecond };
const BYTES = { parse: parseRate, ...RANGES.networkBytes };
const WORDS: Readonly<Record<string, LimitWord<string>>> = {
  bytes: { field: 'bytesMax', ...BYTES },
  up: { field: 'uploadBytesPerSecond', ...RATE },
  down: { field: 'downloadBytesPerSecond', ...RATE },
  connections: { field: 'connectionsMax', parse: parseCount, ...RANGES.networkConnections },
} satisfies Record<string, LimitWord<keyof NetworkLimits>>;
const EXAMPLE = 'bytes=1G,up=5M,down=20M,connections=100,api.example.com=10M';

/**
 * `bytes=1G,up=5M,api.example.com=10M`: a key with a dot is a name. Several options form one list; `none` alone
 * removes all limits.
 * @returns undefined: the option was not given
 * @throws UsageError
 */
export function parseNetLimits(texts: readonly string[]): NetworkLimits | undefined {
  const names = texts
    .flatMap((text) => text.split(','))
    .map((pair) => pair.split('=', 1)[0] ?? '')
    .filter((name) => name.includes('.'));
  const byName = Object.fromEntries(names.map((name) => [name, { field: name, ...BYTES }]));
  const limits = parseLimits('--net-limit', { ...WORDS, ...byName }, EXAMPLE, texts);
  if (limits === undefined) return undefined;
  const pairs = Object.entries(limits) as [string, number][];
  const destinations = pairs.filter(([name]) => name.includes('.')).map(([name, bytesMax]) => ({ name, bytesMax }));
  return {
    ...Object.fromEntries(pairs.filter(([name]) => !name.includes('.'))),
    ...(destinations.length === 0 ? {} : { destinations }),
  };
}
