import { CodedError, describeError } from '../base/errors.ts';

export type SandboxErrorCode =
  /** A field of the spec is out of range; the message names it. */
  | 'spec_invalid'
  /** The VM or its agent did not become ready. */
  | 'start_failed'
  /** The request is not legal in the sandbox's present state. */
  | 'not_ready'
  /** The sandbox has ended. */
  | 'gone'
  /** No sandbox or snapshot has this id or name. */
  | 'not_found'
  /** Another snapshot has this name. */
  | 'name_taken'
  /** The snapshot is of another kernel, image, VMM or processor; it can't be used here. */
  | 'snapshot_foreign'
  /** The sandbox could not be saved; the message says whether it goes on. */
  | 'snapshot_failed'
  /** Too much is going on; the error says when to try again. */
  | 'busy'
  /** A template could not be built; sandboxes still boot. */
  | 'template_failed'
  /** The caller cancelled. */
  | 'cancelled';

export class SandboxError extends CodedError<SandboxErrorCode> {}

/** Nothing was started. */
export class BusyError extends SandboxError {
  /** When a next try is likely to succeed, milliseconds from now. */
  readonly retryAfterMs: number;

  constructor(message: string, retryAfterMs: number, options: { cause?: unknown } = {}) {
    const seconds = Math.ceil(retryAfterMs / 1000);
    super('busy', message, { ...options, remedy: `try again in ${seconds} s` });
    this.retryAfterMs = retryAfterMs;
  }
}

const CONSOLE_LINES_IN_ERROR = 12;

/** With the last lines of the guest's console, which often tell why. */
export function startFailure(error: unknown, consoleTail: string): SandboxError {
  const lastLines = consoleTail.trimEnd().split('\n').slice(-CONSOLE_LINES_IN_ERROR).join('\n');
  const remedy = error instanceof CodedError ? error.remedy : undefined;
  const console = lastLines === '' ? '' : `\nlast lines of the guest's console:\n${lastLines}`;
  return new SandboxError('start_failed', 'the sandbox could not be started', {
    cause: new Error(`${describeError(error)}${console}`),
    ...(remedy === undefined ? {} : { remedy }),
  });
}
