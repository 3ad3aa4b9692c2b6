/** How a failed command reports, to a person or to a program, what went wrong and what to do. */
import { styleText } from 'node:util';
import { CodedError, describeError, remedyOf } from '../base/errors.ts';
import { productName } from '../base/package-dir.ts';
import { plainJson, plainLines } from '../base/text/plain.ts';

/** A wrong command line: unknown option, invalid argument, missing file, unknown id. */
export class UsageError extends CodedError<'usage'> {
  constructor(message: string, remedy?: string) {
    super('usage', message, remedy === undefined ? {} : { remedy });
  }
}

/** For a terminal: causes may quote a guest, a VMM or a model server. */
export function failureText(error: unknown): string {
  const remedy = remedyOf(error);
  const head = `${styleText('red', 'neurovisor:')} ${plainLines(describeError(error))}`;
  if (remedy === undefined) return isOurs(error) ? `${head}\n${report()}` : head;
  return `${head}\n${styleText('yellow', 'fix:')} ${plainLines(remedy)}`;
}

const FAULTS = [TypeError, RangeError, ReferenceError];

/** Whether the error is a fault of this program. `fetch` throws a TypeError with a cause if the network fails. */
function isOurs(error: unknown): boolean {
  return FAULTS.some((kind) => error instanceof kind) && !('code' in (error as Error)) && !(error as Error).cause;
}

const report = (): string => `this is a fault of NeuroVisor ${productName()}; please report it`;

export function failureJson(error: unknown): object {
  return {
    error: {
      code: error instanceof CodedError ? error.code : 'internal',
      message: describeError(error),
      remedy: remedyOf(error) ?? (isOurs(error) ? report() : null),
    },
  };
}

/** JSON: one object on stdout. Text: on stderr. */
export function printFailure(error: unknown, json: boolean): void {
  if (json) process.stdout.write(`${plainJson(failureJson(error), 2)}\n`);
  else process.stderr.write(`${failureText(error)}\n`);
}
