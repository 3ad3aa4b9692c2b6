/** How a failed command tells a person (or a program) what went wrong and what to do. */
import { constants } from 'node:os';
import { styleText } from 'node:util';
import { CodedError, describeError } from '../base/errors.ts';

/** As `docker run`: NeuroVisor itself failed, not the script. */
export const EXIT_NEUROVISOR_FAILED = 125;
/** As `timeout(1)`. */
export const EXIT_TIMEOUT = 124;

/** As shells: there is such a file, but it can't be executed. */
export const EXIT_NOT_EXECUTABLE = 126;
/** As shells: there is no such program. */
export const EXIT_NO_PROGRAM = 127;

/** Signals that end a command. */
export const HANDLED_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
export type HandledSignal = (typeof HANDLED_SIGNALS)[number];

/** As shells tell it: 128 and the number of the signal that ended a program. */
export const exitOfSignal = (name: string): number =>
  128 + (constants.signals[name as NodeJS.Signals] ?? 0);

/** Bad words on the command line. */
export class UsageError extends CodedError<'usage'> {
  constructor(message: string, remedy?: string) {
    super('usage', message, remedy === undefined ? {} : { remedy });
  }
}

export function failureText(error: unknown): string {
  const remedy = remedyOf(error);
  const head = `${styleText('red', 'neurovisor:')} ${describeError(error)}`;
  return remedy === undefined ? head : `${head}\n${styleText('yellow', 'fix:')} ${remedy}`;
}

export function failureJson(error: unknown): object {
  return {
    error: {
      code: error instanceof CodedError ? error.code : 'internal',
      message: describeError(error),
      remedy: remedyOf(error) ?? null,
    },
  };
}

/** One object on stdout, or text on stderr. */
export function tellFailure(error: unknown, json: boolean): void {
  if (json) process.stdout.write(`${JSON.stringify(failureJson(error), null, 2)}\n`);
  else process.stderr.write(`${failureText(error)}\n`);
}

function remedyOf(error: unknown): string | undefined {
  for (let current = error; current instanceof Error; current = current.cause) {
    if (current instanceof CodedError && current.remedy !== undefined) return current.remedy;
  }
  return undefined;
}
