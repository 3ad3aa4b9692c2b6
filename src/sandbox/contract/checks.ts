/** Checks of the fields of a spec. */
import { SandboxError } from './errors.ts';
import { isInRange, type Range } from './limits.ts';

/** @throws SandboxError `spec_invalid` */
export function inRange(field: string, value: number, range: Range): number {
  const { min, max } = range;
  const why = `${value} is not a whole number from ${min} to ${max}`;
  check(isInRange(value, range), field, why);
  return value;
}

/** The fields of `values` that are set, each checked against its range. */
export function inRanges<T extends { readonly [K in keyof T]?: number | undefined }>(
  field: string,
  values: T,
  ranges: { readonly [K in keyof T]-?: Range },
): T {
  const names = (Object.keys(ranges) as (keyof T & string)[]).filter((name) => values[name] !== undefined);
  const checked = names.map((name) => {
    const value = values[name] ?? Number.NaN;
    return [name, inRange(`${field}.${name}`, value, ranges[name])] as const;
  });
  return Object.fromEntries(checked) as T;
}

export function check(ok: boolean, field: string, why: string): asserts ok {
  if (!ok) throw new SandboxError('spec_invalid', `sandbox option ${field}: ${why}`);
}
