/** Values of a parsed TOML file, which may have any type. */

/** @returns `null` if absent */
export function textOf(value: unknown, toError: (why: string) => Error): string | null {
  if (value === undefined) return null;
  if (typeof value !== 'string') throw toError('must be a string');
  return value;
}

/** Empty if absent. */
export function textsOf(value: unknown, toError: (why: string) => Error): readonly string[] {
  if (value === undefined) return [];
  if (!Array.isArray(value) || !value.every((one) => typeof one === 'string')) {
    throw toError('must be a list of strings');
  }
  return value;
}
