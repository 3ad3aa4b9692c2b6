/** Parsers of option values. Each throws a `UsageError` that says what is valid. */
import { GIB, KIB, MIB } from '../../base/units.ts';
import { UsageError } from '../failure.ts';

const DURATION = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/;
const UNIT_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** `90`, `90s`, `1.5m`, `2h`, `7d`, `500ms` → milliseconds; a bare number is seconds. */
export function parseDuration(text: string): number {
  const match = DURATION.exec(text);
  if (match?.[1] === undefined) {
    throw new UsageError(`invalid duration "${text}"`, 'use a number and a unit, for example 90s or 5m');
  }
  const unit = (match[2] ?? 's') as keyof typeof UNIT_MS;
  return Math.round(Number(match[1]) * UNIT_MS[unit]);
}

/** No limit; `never` was the word before 0.3.0. */
export const isNone = (text: string): boolean => text === 'none' || text === 'never';

/** In the largest unit that divides it: `1d`, `90m`. */
export function durationText(ms: number): string {
  const units = Object.entries(UNIT_MS).toReversed();
  const [unit, size] = units.find(([, each]) => ms % each === 0) ?? ['ms', 1];
  return `${ms / size}${unit}`;
}

/** `512`, `512M`, `2G`, `2GiB` → MiB. */
export function parseMemory(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(?:(M|G)(?:i?B)?)?$/i.exec(text);
  if (match?.[1] === undefined) {
    throw new UsageError(`invalid memory size "${text}"`, 'use a number and a unit, for example 512M or 2G');
  }
  const mib = Number(match[1]) * (match[2]?.toUpperCase() === 'G' ? 1024 : 1);
  return Math.round(mib);
}

export function parseCount(text: string): number {
  if (!/^\d+$/.test(text)) throw new UsageError(`invalid number "${text}"`, 'use a whole number');
  return Number(text);
}

/** `NAME=VALUE`, or `NAME` to pass on the host's own value, as `docker run -e` does. */
export function parseEnv(
  texts: readonly string[],
  hostEnv: Readonly<Record<string, string | undefined>>,
): Record<string, string> {
  const env: Record<string, string> = {};
  for (const text of texts) {
    const at = text.indexOf('=');
    const name = at < 0 ? text : text.slice(0, at);
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      throw new UsageError(`-e ${text}: invalid variable name "${name}"`, 'use -e NAME=VALUE');
    }
    const value = at < 0 ? hostEnv[name] : text.slice(at + 1);
    if (value === undefined) {
      throw new UsageError(`-e ${name}: variable is not set in this environment`, 'set it, or use -e NAME=VALUE');
    }
    env[name] = value;
  }
  return env;
}

/** `KEY=VALUE` pairs; a value may be empty. @param option its name, for messages */
export function parsePairs(texts: readonly string[], option: string): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf('=');
      if (at <= 0) throw new UsageError(`${option} ${text}: expected KEY=VALUE`);
      return [text.slice(0, at), text.slice(at + 1)];
    }),
  );
}

/** `FROM=TO` pairs. */
export function parseAliases(texts: readonly string[]): Record<string, string> {
  for (const text of texts) {
    if (/^[^=]+=./s.test(text)) continue;
    throw new UsageError(`--alias ${text}: expected ASKED=OFFERED`, 'for example --alias gpt-4o=llama3');
  }
  return parsePairs(texts, '--alias');
}

/** `5M`, `512K`, `1GiB/s` or a number → bytes, or bytes per second. */
export function parseRate(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(?:(K|M|G|T)(?:i?B)?(?:\/s)?)?$/i.exec(text);
  const scale = { K: KIB, M: MIB, G: GIB, T: 1024 * GIB } as const;
  if (match?.[1] === undefined)
    throw new UsageError(`invalid size "${text}"`, 'use a number and a unit, for example 5M');
  const unit = match[2]?.toUpperCase() as keyof typeof scale | undefined;
  const rate = Math.round(Number(match[1]) * (unit === undefined ? 1 : scale[unit]));
  if (rate < 1) throw new UsageError(`size "${text}" is less than one byte`, 'use for example 5M');
  return rate;
}

/** A word of an option that is a list of limits: `name=value,name=value`. */
export interface LimitWord<Field extends string> {
  readonly field: Field;
  readonly parse: (text: string) => number;
  readonly min: number;
  readonly max: number;
  /** Writes a value as a person would. Default: the number. */
  readonly format?: (value: number) => string;
}

/**
 * Several options form one list; `none` alone removes all limits.
 * @param example a valid list, for messages
 * @throws UsageError
 */
export function parseLimits<Field extends string>(
  option: string,
  words: Readonly<Record<string, LimitWord<Field>>>,
  example: string,
  texts: readonly string[],
): { readonly [K in Field]?: number } {
  if (texts.length === 1 && texts[0] === 'none') return {};
  const remedy = `use for example ${option} ${example}, or ${option} none`;
  const limits = new Map<Field, number>();
  for (const pair of texts.flatMap((text) => text.split(','))) {
    const [name = '', value = ''] = pair.split(/=(.*)/s);
    const word = Object.hasOwn(words, name) ? words[name] : undefined;
    if (word === undefined) throw new UsageError(`${option} ${pair}: unknown limit`, remedy);
    if (limits.has(word.field)) throw new UsageError(`${option} ${name} is given twice`);
    const limit = word.parse(value);
    if (!(limit >= word.min && limit <= word.max)) {
      const { format = String } = word;
      const range = `${format(word.min)} to ${format(word.max)}`;
      throw new UsageError(`${option} ${pair}: out of range (${range})`, remedy);
    }
    limits.set(word.field, limit);
  }
  return Object.fromEntries(limits) as { [K in Field]?: number };
}
