/** `--net-limit`: how much a sandbox may have of its network. */
import { LIMITS, type NetworkLimits } from '../sandbox/spec.ts';
import { UsageError } from './failure.ts';
import { parseCount, parseRate } from './options.ts';

interface Word {
  readonly field: keyof NetworkLimits;
  readonly parse: (text: string) => number;
  readonly min: number;
  readonly max: number;
}

const RATE = { min: LIMITS.networkBytesPerSecondMin, max: LIMITS.networkBytesPerSecondMax };
const WORDS: Readonly<Record<string, Word>> = {
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

const REMEDY = 'write e.g. --net-limit bytes=1G,up=5M,down=20M,connections=100, or none';

/**
 * `bytes=1G,up=5M`; several options are one list, and `none` alone is no limit at all.
 * @returns undefined: the option was not given
 * @throws UsageError
 */
export function parseNetLimits(texts: readonly string[]): NetworkLimits | undefined {
  if (texts.length === 0) return undefined;
  if (texts.length === 1 && texts[0] === 'none') return {};
  const limits = new Map<keyof NetworkLimits, number>();
  for (const pair of texts.flatMap((text) => text.split(','))) {
    const [name = '', value = ''] = pair.split(/=(.*)/s);
    const word = Object.hasOwn(WORDS, name) ? WORDS[name] : undefined;
    if (word === undefined) throw new UsageError(`--net-limit ${pair}: no such limit`, REMEDY);
    if (limits.has(word.field)) throw new UsageError(`--net-limit ${name} is given twice`);
    const limit = word.parse(value);
    if (!(limit >= word.min && limit <= word.max)) {
      const range = `${word.min} to ${word.max}`;
      throw new UsageError(`--net-limit ${pair}: not in the range ${range}`, REMEDY);
    }
    limits.set(word.field, limit);
  }
  return Object.fromEntries(limits);
}
