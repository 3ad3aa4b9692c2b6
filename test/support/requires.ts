/**
 * The only way to skip tests: the machine lacks a capability; the skip names the reason. If NEUROVISOR_REQUIRE names
 * the capability, the file fails to load, or the test fails, instead.
 */
import { describe, it, type TestContext } from 'vitest';
import { type Capability, requiredCapabilities } from './capabilities.ts';
import { isFullRun } from './full-run.ts';

type Body = (context: TestContext) => unknown;

export interface RequiringIt {
  (title: string, body: Body): void;
  (title: string, options: { readonly timeout: number }, body: Body): void;
  readonly each: typeof it.each;
}

export interface Requirement<T> {
  /** If the capability is missing, the body is called only so that its tests are listed; none of them runs. */
  describe(title: string, body: (found: T) => void): void;
  readonly it: RequiringIt;
}

/** @param found what the tests need, or the reason why it is missing */
export function requires<T>(capability: Capability, found: T | string): Requirement<T> {
  if (typeof found !== 'string') {
    return { describe: (title, body) => void describe(title, () => body(found)), it };
  }
  refuse(capability, found);
  return skips(found);
}

/**
 * Tests that take too long, or download too much, for each run.
 * @param find called only in a full run
 */
export const requiresFullRun = <T>(capability: Capability, find: () => T | string): Requirement<T> =>
  isFullRun() ? requires(capability, find()) : skips('only with ./neurovisor test --full');

/** Lists the tests and runs none of them. */
function skips<T>(reason: string): Requirement<T> {
  const options = { meta: { skipReason: reason } };
  // Vitest takes the body as the last argument, whatever the options.
  const skipped = (title: string, ...rest: unknown[]): void => void it.skip(title, options, rest.at(-1) as Body);
  const each =
    (cases: readonly unknown[]) =>
    (title: string, ...rest: unknown[]) =>
      it.skip.each(cases)(title, options, rest.at(-1) as () => void);
  return {
    describe: (title, body) => void describe.skip(title, options, () => body({} as T)),
    it: Object.assign(skipped, { each: each as typeof it.each }),
  };
}

/**
 * Inside a test: skips the rest of it if the capability turns out to be missing.
 * @returns what was found
 */
export function need<T>(context: Pick<TestContext, 'skip'>, capability: Capability, found: T | string): T {
  if (typeof found !== 'string') return found;
  refuse(capability, found);
  return context.skip(found);
}

/** @throws if NEUROVISOR_REQUIRE names the capability */
function refuse(capability: Capability, reason: string): void {
  if (!requiredCapabilities(process.env).includes(capability)) return;
  throw new Error(`NEUROVISOR_REQUIRE names ${capability}, which this machine lacks: ${reason}`);
}

/** Tests that need to run as root. */
export const requiresRoot = (): Requirement<true> => requires('root', process.geteuid?.() === 0 || 'it is not root');
