import { errorCode } from './errors.ts';
import { Counter } from './metrics.ts';

const NO_CODE = 'none';
/** Enough for system codes and our closed sets: a daemon meets a few dozen. */
const CODES_MAX = 64;

/**
 * Errors of this thread, and of threads that report theirs. By code, not by reason: reasons are many, and a flood has
 * one code (`EMFILE`, `EPIPE`).
 */
export const ignoredErrors = new Counter(
  'neurovisor_ignored_errors_total',
  'Errors that the daemon ignored as harmless.',
  ['code'],
  CODES_MAX,
);

/** The only way to drop an error: with a reason for the reader, and counted, so that a flood shows. */
export function ignore(error: unknown, _reason: string): void {
  ignoredErrors.add({ code: errorCode(error) ?? NO_CODE });
  hasUntaken = true;
}

/** The result of `work`. If it throws, ignores the error and returns `otherwise`. @param reason as for `ignore` */
export function tryOr<T, U>(otherwise: U, reason: string, work: () => T): T | U {
  try {
    return work();
  } catch (error) {
    ignore(error, reason);
    return otherwise;
  }
}

/** As `tryOr`, for work that may reject. */
export async function awaitOr<T, U>(otherwise: U, reason: string, work: () => Promise<T>): Promise<T | U> {
  try {
    return await work();
  } catch (error) {
    ignore(error, reason);
    return otherwise;
  }
}

/** Numbers of ignored errors by code. */
export type IgnoredCounts = ReadonlyMap<string, number>;

let hasUntaken = false;
const taken = new Map<string, number>();

/**
 * For a worker, whose own `ignoredErrors` are not exported: the errors it ignored since the last call, to send to the
 * main thread. Undefined if there are none.
 */
export function takeIgnored(): IgnoredCounts | undefined {
  if (!hasUntaken) return undefined;
  hasUntaken = false;
  const counts = new Map<string, number>();
  for (const { labels, value } of ignoredErrors.samples()) {
    const code = labels['code'] ?? NO_CODE;
    const more = value - (taken.get(code) ?? 0);
    if (more > 0) counts.set(code, more);
    taken.set(code, value);
  }
  return counts;
}

export function addIgnored(counts: IgnoredCounts): void {
  for (const [code, count] of counts) ignoredErrors.add({ code }, count);
}
