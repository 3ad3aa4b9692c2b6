import { errorCode } from './errors.ts';
import { Counter } from './metrics.ts';

const NO_CODE = 'none';
/** Codes of the system and closed sets of ours: a daemon meets a few dozen. */
const CODES_MAX = 64;

/** Of this thread. By code, not by reason: reasons are many, and a flood has one code (`EMFILE`, `EPIPE`). */
export const ignoredErrors = new Counter({
  name: 'neurovisor_ignored_errors_total',
  help: 'Errors that the daemon ignored as harmless, by code of the error; none: without a code.',
  unit: null,
  labels: ['code'],
  seriesMax: CODES_MAX,
});

/** The only way to drop an error: with a reason for the reader, and counted, so that a flood shows. */
export function ignore(error: unknown, _reason: string): void {
  ignoredErrors.add({ code: errorCode(error) ?? NO_CODE });
}
