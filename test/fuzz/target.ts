/** What can be fuzzed: an input and a check that throws. Properties run short in `prop`, long in tools/fuzz.ts. */
import fc from 'fast-check';

export interface FuzzTarget {
  readonly name: string;
  /** Runs of a short test. */
  readonly runs: number;
  property(): fc.IProperty<unknown>;
}

export function target<T>(
  name: string,
  runs: number,
  input: fc.Arbitrary<T>,
  check: (value: T) => void,
): FuzzTarget {
  return { name, runs, property: () => fc.property(input, check) as fc.IProperty<unknown> };
}

/** Throws with what went wrong; assertions of a test framework are not at hand in the tool. */
export function must(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(message);
}
