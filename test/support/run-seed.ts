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
