/** Set by `./neurovisor test --full`: also runs tests that take too long, or download too much, for each run. */
export const FULL_VARIABLE = 'NEUROVISOR_TEST_FULL';

export const isFullRun = (): boolean => process.env[FULL_VARIABLE] === 'full';
