/** The one seed of a run, from which every random input of the tests is derived. */

const SEED_MAX = 2 ** 31;

/** @returns NEUROVISOR_SEED; without it a new seed, which later calls and child processes get too */
export function runSeed(): number {
  const given = process.env['NEUROVISOR_SEED'] || String(Math.floor(Math.random() * SEED_MAX));
  const seed = Number(given);
  if (!Number.isSafeInteger(seed)) {
    throw new Error(`invalid NEUROVISOR_SEED "${given}": use a whole number`);
  }
  process.env['NEUROVISOR_SEED'] = given;
  return seed;
}

/** Numbers from 0 to 1 that depend only on the seed (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
