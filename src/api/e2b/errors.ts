/** Errors as E2B's clients expect them: one shape, with `code` as a number that equals the status. */

import { CodedError, describeError } from '../../base/errors.ts';
import { BusyError } from '../../sandbox/contract/errors.ts';
import { retryAfterSeconds, statusOf } from '../rest/errors.ts';
import { QuotaError } from '../tenants/errors.ts';

/** A refusal with its status. The message is sent to the client. */
export class E2bError extends CodedError<`${number}`> {
  readonly status: number;
  /** Additional code for programs. */
  readonly errorCode: string | undefined;
  /** Undefined if a retry would fail too. */
  readonly retryAfterSeconds: number | undefined;

  constructor(
    status: number,
    message: string,
    options: { cause?: unknown; remedy?: string | undefined; errorCode?: string; retryAfterSeconds?: number } = {},
  ) {
    super(`${status}`, message, options);
    this.status = status;
    this.errorCode = options.errorCode;
    this.retryAfterSeconds = options.retryAfterSeconds;
  }
}

/** A template could not be built. The message is sent to the client. */
export class BuildFailure extends CodedError<'build_failed'> {
  /** Number of the step from 1; `base` is before the first, `finalize` after the last. `null` if unknown. */
  readonly step: number | 'base' | 'finalize' | null;

  constructor(step: BuildFailure['step'], message: string, options: { cause?: unknown } = {}) {
    super('build_failed', message, options);
    this.step = step;
  }
}

export interface ErrorReply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: { readonly code: number; readonly message: string; readonly error_code?: string };
}

const MESSAGE_CHARACTERS_MAX = 4096;
/** Ended sandboxes are unknown to E2B's clients. */
const STATUS_CHANGED: ReadonlyMap<number, number> = new Map([[410, 404]]);

/** `null` for a bug, which is logged and answered without details. */
export function errorReply(error: unknown): ErrorReply | null {
  const status = error instanceof E2bError ? error.status : statusOf(error);
  if (status === undefined) return null;
  const code = STATUS_CHANGED.get(status) ?? status;
  const remedy = error instanceof CodedError && error.remedy !== undefined ? `; ${error.remedy}` : '';
  const message = `${wordsFor(error)}${describeError(error)}${remedy}`.slice(0, MESSAGE_CHARACTERS_MAX);
  const word = error instanceof E2bError ? error.errorCode : undefined;
  return {
    status: code,
    headers: retryHeaders(error),
    body: { code, message, ...(word === undefined ? {} : { error_code: word }) },
  };
}

/** E2B's words: by them Harbor waits for a place, and tells this from too many requests. */
function wordsFor(error: unknown): string {
  const isFull = error instanceof QuotaError && (error.quota === 'sandboxes' || error.quota === 'memory');
  return isFull ? 'you have reached the maximum number of concurrent sandboxes: ' : '';
}

export const INTERNAL: ErrorReply = {
  status: 500,
  headers: {},
  body: { code: 500, message: 'internal server error; see the log of the daemon' },
};

/** The Python client retries 429 and 502 to 504, even for creations, unless told otherwise. */
function retryHeaders(error: unknown): Record<string, string> {
  const seconds =
    error instanceof BusyError
      ? retryAfterSeconds(error)
      : error instanceof E2bError
        ? error.retryAfterSeconds
        : undefined;
  if (seconds === undefined) return { 'should-retry': 'false' };
  return { 'should-retry': 'true', 'retry-after': String(seconds) };
}
