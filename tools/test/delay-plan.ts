/** Plans the delays of `delays.ts`: derived from the seed of the run, the same in each process. */
import { randomFrom } from '../../test/support/run-seed.ts';

/** `MS`: the maximum delay. */
export const DELAYS_VARIABLE = 'NEUROVISOR_TEST_DELAYS';
/** Default of the layer `delays`. */
export const DELAYS_MS_DEFAULT = 6;
export const DELAYS_MS_MAX = 1000;

/** @returns the length of the next delay, ms; `null` without delays */
export function delaysFrom(env: Readonly<Record<string, string | undefined>>): (() => number) | null {
  const text = env[DELAYS_VARIABLE];
  if (text === undefined || text === '') return null;
  const msMax = Number(text);
  if (!Number.isInteger(msMax) || msMax < 1 || msMax > DELAYS_MS_MAX)
    throw new Error(`invalid ${DELAYS_VARIABLE} "${text}": use 1 to ${DELAYS_MS_MAX}`);
  const random = randomFrom(Number(env['NEUROVISOR_SEED'] ?? 0));
  return () => random() * msMax;
}

/** The environment in which Node preloads the delays. */
export function delayed(
  env: Readonly<Record<string, string | undefined>>,
  msMax: number,
): Readonly<Record<string, string | undefined>> {
  const preload = `--import=${new URL('delays.ts', import.meta.url)}`;
  const options = [env['NODE_OPTIONS'] ?? '', preload].join(' ').trim();
  return { ...env, [DELAYS_VARIABLE]: String(msMax), NODE_OPTIONS: options };
}
