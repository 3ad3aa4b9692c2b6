/** `./neurovisor test --full`: also what takes too long, or fetches too much, for each run. */
export const FULL_VARIABLE = 'NEUROVISOR_TEST_FULL';

export const isFullRun = (): boolean => process.env[FULL_VARIABLE] === 'full';
