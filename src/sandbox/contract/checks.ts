/** Checks of the fields of a spec, and of references to sandboxes. */
import { parseSandboxId } from '../../base/ids.ts';
import { SandboxError } from './errors.ts';
import { isInRange, type Range, SANDBOX_REFERENCE } from './limits.ts';
import type { Sandboxes } from './sandboxes.ts';

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

/**
 * Returns the id of the sandbox with this id or name, or any other text as it is. An id is not looked up.
 * @throws SandboxError `not_found`
 */
export async function idOfSandbox(control: Pick<Sandboxes, 'list'>, reference: string): Promise<string> {
  if (parseSandboxId(reference) !== undefined || !SANDBOX_REFERENCE.test(reference)) return reference;
  const [found] = await control.list({ name: reference });
  if (found !== undefined) return found.id;
  throw new SandboxError('not_found', `there is no sandbox ${reference}`, { remedy: 'neurovisor ls' });
}
