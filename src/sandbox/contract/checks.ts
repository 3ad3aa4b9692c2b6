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

export function check(ok: boolean, field: string, why: string): asserts ok {
  if (!ok) throw new SandboxError('spec_invalid', `sandbox option ${field}: ${why}`);
}
