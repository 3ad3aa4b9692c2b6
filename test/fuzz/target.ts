/** What can be fuzzed: an input and a check that throws. Runs are short in `prop` and long in tools/fuzz.ts. */
import fc from 'fast-check';

export interface FuzzTarget {
  readonly name: string;
  /** Runs of a short test. */
  readonly runs: number;
  readonly input: fc.Arbitrary<unknown>;
  /** Throws if the input shows a bug. */
  check(input: unknown): void;
}

export function target<T>(
  name: string,
  runs: number,
  input: fc.Arbitrary<T>,
  check: (value: T) => void,
): FuzzTarget {
  return { name, runs, input, check: (value) => check(value as T) };
}

export const propertyOf = ({ input, check }: FuzzTarget): fc.IProperty<[unknown]> =>
  fc.property(input, check);

/** Throws with the fault; the tool has no assertions of a test framework. */
export function must(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(message);
}
