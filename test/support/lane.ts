/** The lane of a test run: files of different lanes run at once, and share no folder in which they delete. */
export const LANE_VARIABLE = 'NEUROVISOR_TEST_LANE';

export const testLane = (): string => process.env[LANE_VARIABLE] ?? '0';
