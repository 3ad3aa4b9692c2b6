/** A fuzz target: a check of any bytes that throws if they show a bug. Shorter inputs are simpler ones. */
import fc from 'fast-check';
import { ByteRandom } from './byte-random.ts';

export interface FuzzTarget {
  readonly name: string;
  /** Longer inputs are not tried. */
  readonly maxBytes: number;
  /** The bytes are choices: any are an input, and long ones are larger structures. */
  readonly isStructured: boolean;
  /** Inputs to start from: messages that the code accepts. */
  readonly seeds: readonly Uint8Array[];
  /** Throws, or rejects, if the input shows a bug. */
  check(bytes: Uint8Array): void | Promise<void>;
  /** What the bytes stand for, for people. */
  describe(bytes: Uint8Array): string;
}

export interface TargetOptions {
  readonly maxBytes?: number;
  readonly seeds?: readonly (Uint8Array | string)[];
}

const MAX_BYTES = 4096;

/** @param check of the bytes themselves */
export function target(
  name: string,
  check: (bytes: Buffer) => void | Promise<void>,
  options: TargetOptions = {},
): FuzzTarget {
  const { maxBytes = MAX_BYTES, seeds = [] } = options;
  return {
    name,
    isStructured: false,
    maxBytes,
    seeds: seeds.map((each) => (typeof each === 'string' ? Buffer.from(each, 'latin1') : each)),
    // A copy: what a check leaves in its input would become part of the corpus.
    check: (bytes) => check(Buffer.from(bytes)),
    describe: (bytes) => JSON.stringify(Buffer.from(bytes).toString('latin1')),
  };
}

/**
 * A target whose input has a structure: the bytes are the choices of its generator. A changed byte is another choice, so
 * coverage guides the structure.
 */
export function structured<T>(
  name: string,
  input: fc.Arbitrary<T>,
  check: (value: T) => void | Promise<void>,
  options: TargetOptions = {},
): FuzzTarget {
  const generated = (bytes: Uint8Array): T => input.generate(new ByteRandom(bytes), undefined).value;
  return {
    ...target(name, (bytes) => check(generated(bytes)), options),
    isStructured: true,
    describe: (bytes) => fc.stringify(generated(bytes)),
  };
}

/** Throws with the fault; the tool has no assertions of a test framework. */
export function must(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(message);
}
