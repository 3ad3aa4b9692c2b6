/** Options that are lists of limits: `name=value,name=value`. */
import { UsageError } from '../failure.ts';

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
