import { CodedError, describeError, errorCode, remedyOf } from '../base/errors.ts';
import type { StoreErrorCode } from '../store/errors.ts';

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
  /** No space for what was to be kept; nothing of it was, and a sandbox that ran goes on. */
  | 'disk_full'
  /** A file of the snapshot is missing or not as it was written; it is not loaded. */
  | 'snapshot_damaged'
  /** A paused sandbox needs the snapshot. */
  | 'in_use'
  /** What is kept on the disk can't be read or written; the message says why. */
  | 'store_failed'
  /** Too much is going on; the error says when to try again. */
  | 'busy'
  /** It can't be given so much memory, or can't give it back; the message says why. It goes on as it is. */
  | 'memory_unavailable'
  /** This host can't give it a network; the message says why. */
  | 'network_unavailable'
  /** Nothing in the sandbox takes the connection to its card; the message says why. */
  | 'port_unreachable'
  /** The values of its secrets are not known here any more; they have to be given again. */
  | 'secrets_missing'
  /** A template could not be built; sandboxes still boot. */
  | 'template_failed'
  /** The caller cancelled. */
  | 'cancelled';

export class SandboxError extends CodedError<SandboxErrorCode> {}

/** Of the store's own errors, those that are told as they are; any other is `store_failed`. */
const STORE_CODES: Partial<Record<StoreErrorCode, SandboxErrorCode>> = {
  not_found: 'not_found',
  name_taken: 'name_taken',
  in_use: 'in_use',
  disk_full: 'disk_full',
  snapshot_damaged: 'snapshot_damaged',
  store_closed: 'cancelled',
};

/** An error of the store as one of a sandbox; anything else as it is. This folder knows the store's types only. */
export function fromStore(error: unknown): unknown {
  if (!(error instanceof CodedError) || error.name !== 'StoreError') return error;
  const code = STORE_CODES[error.code as StoreErrorCode] ?? 'store_failed';
  return new SandboxError(code, error.message, { cause: error.cause, remedy: remedyOf(error) });
}

/** Waits for work that may use the store. @throws what that throws, as this folder's own */
export async function translateStoreErrors<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw fromStore(error);
  }
}

/** @returns of the code `disk_full` if that is why */
export function saveFailure(cause: unknown): SandboxError {
  const code = errorCode(cause) === 'disk_full' ? 'disk_full' : 'snapshot_failed';
  const message = 'the sandbox could not be saved; it goes on';
  return new SandboxError(code, message, { cause, remedy: remedyOf(cause) });
}

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

export function goneWhileSaving(cause: unknown): SandboxError {
  return new SandboxError('gone', 'the sandbox ended while it was being saved', { cause });
}

/** Nothing that is started in another way would have a network, or its secrets, either. */
export function isWithoutNetwork(error: unknown): error is SandboxError {
  return error instanceof SandboxError && WITHOUT_NETWORK.has(error.code);
}

const WITHOUT_NETWORK: ReadonlySet<SandboxErrorCode> = new Set([
  'network_unavailable',
  'secrets_missing',
]);

const CONSOLE_LINES_IN_ERROR = 12;

/** With the last lines of the guest's console, which often tell why. */
export function startFailure(error: unknown, consoleTail: string): SandboxError {
  if (isWithoutNetwork(error)) return error;
  const lastLines = consoleTail.trimEnd().split('\n').slice(-CONSOLE_LINES_IN_ERROR).join('\n');
  const console = lastLines === '' ? '' : `\nlast lines of the guest's console:\n${lastLines}`;
  return new SandboxError('start_failed', 'the sandbox could not be started', {
    cause: new Error(`${describeError(error)}${console}`),
    remedy: remedyOf(error),
  });
}

/** @param what can't be done to it as it is now, e.g. `paused` */
export function refusal(id: string, status: string, what: string, remedy?: string): SandboxError {
  const code = status === 'ending' || status === 'ended' ? 'gone' : 'not_ready';
  const text = `sandbox ${id} can't be ${what}: it is ${status}`;
  return new SandboxError(code, text, remedy === undefined ? {} : { remedy });
}
