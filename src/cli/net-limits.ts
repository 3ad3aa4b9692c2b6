/** `--net-limit`: how much a sandbox may have of its network. */
import { LIMITS, type NetworkLimits } from '../sandbox/spec.ts';
import { UsageError } from './failure.ts';
import { parseCount, parseRate } from './options.ts';

interface Word {
  readonly field: Exclude<keyof NetworkLimits, 'destinations'>;
  readonly parse: (text: string) => number;
  readonly min: number;
  readonly max: number;
}

const RATE = { min: LIMITS.networkBytesPerSecondMin, max: LIMITS.networkBytesPerSecondMax };
const BYTES: Word = { field: 'bytesMax', parse: parseRate, min: 1, max: LIMITS.networkBytesMax };
const WORDS: Readonly<Record<string, Word>> = {
  bytes: BYTES,
  up: { field: 'uploadBytesPerSecond', parse: parseRate, ...RATE },
  down: { field: 'downloadBytesPerSecond', parse: parseRate, ...RATE },
  connections: {
    field: 'connectionsMax',
    parse: parseCount,
    min: 1,
    max: LIMITS.networkConnectionsMax,
  },
};

const REMEDY =
  'write e.g. --net-limit bytes=1G,up=5M,down=20M,connections=100,api.example.com=10M, or none';

/**
 * `bytes=1G,up=5M,api.example.com=10M` (bytes of a name, which has a dot); several options are one list, and `none` alone is no limit at all.
 * @returns undefined: the option was not given
 * @throws UsageError
 */
export function parseNetLimits(texts: readonly string[]): NetworkLimits | undefined {
  if (texts.length === 0) return undefined;
  if (texts.length === 1 && texts[0] === 'none') return {};
  const limits = new Map<Word['field'], number>();
  const destinations = new Map<string, number>();
  for (const pair of texts.flatMap((text) => text.split(','))) {
    const [name = '', value = ''] = pair.split(/=(.*)/s);
    if (name.includes('.')) {
      if (destinations.has(name)) throw new UsageError(`--net-limit ${name} is given twice`);
      destinations.set(name, inRange(pair, BYTES, value));
      continue;
    }
    const word = Object.hasOwn(WORDS, name) ? WORDS[name] : undefined;
    if (word === undefined) throw new UsageError(`--net-limit ${pair}: no such limit`, REMEDY);
    if (limits.has(word.field)) throw new UsageError(`--net-limit ${name} is given twice`);
    limits.set(word.field, inRange(pair, word, value));
  }
  const byName = [...destinations].map(([name, bytesMax]) => ({ name, bytesMax }));
  return {
    ...Object.fromEntries(limits),
    ...(byName.length === 0 ? {} : { destinations: byName }),
  };
}

function inRange(pair: string, { parse, min, max }: Word, value: string): number {
  const limit = parse(value);
  if (limit >= min && limit <= max) return limit;
  throw new UsageError(`--net-limit ${pair}: not in the range ${min} to ${max}`, REMEDY);
}
