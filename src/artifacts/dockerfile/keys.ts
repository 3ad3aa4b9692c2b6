/** Keys of cached steps. A key covers everything that the step's result depends on. Pure. */
import { createHash } from 'node:crypto';
import type { Step } from './evaluate.ts';

/** Increment when the same step gives another result. */
const FORMAT = 1;

/** `sha256:…` */
export type StepKey = string;

/** @param base digest of the disk; `null` for scratch */
export function baseKey(base: string | null): StepKey {
  return digest({ format: FORMAT, base });
}

/**
 * @param files digest of the files that COPY takes from the context; keys of the stages and images that the step reads
 */
export function stepKey(before: StepKey, step: Step, files: readonly string[]): StepKey {
  const { line: _line, text: _text, ...own } = step;
  return digest({ before, step: own, files });
}

/** Equal for equal values, whatever the order of their fields. */
export function digest(value: unknown): string {
  return `sha256:${createHash('sha256')
    .update(JSON.stringify(sorted(value)))
    .digest('hex')}`;
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const pairs = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return pairs.map(([name, one]) => [name, sorted(one)]);
}
