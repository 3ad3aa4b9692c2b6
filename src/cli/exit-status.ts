/** Exit statuses of every command, and the signals that end one. */
import { constants } from 'node:os';

/** An unknown option, an invalid argument, or an id of nothing. */
export const EXIT_USAGE = 2;
/** The script asked a model for what is not in the cassette of `--replay`. */
export const EXIT_NOT_IN_CASSETTE = 122;
/** The script succeeded, but its results did not come back: `--out` or `--sync` of `run`. */
export const EXIT_NO_RESULTS = 123;
/** As `timeout(1)`. */
export const EXIT_TIMEOUT = 124;
/** As `docker run`: NeuroVisor itself failed, not the script. */
export const EXIT_NEUROVISOR_FAILED = 125;
/** As shells: the file exists, but cannot be executed. */
export const EXIT_NOT_EXECUTABLE = 126;
/** As shells: no such program. */
export const EXIT_NO_PROGRAM = 127;

export const HANDLED_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
export type HandledSignal = (typeof HANDLED_SIGNALS)[number];

/** As shells: 128 plus the number of the signal. */
export const exitOfSignal = (name: string): number => 128 + (constants.signals[name as NodeJS.Signals] ?? 0);
