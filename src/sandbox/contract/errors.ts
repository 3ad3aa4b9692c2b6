import { CodedError, describeError, isFullDisk, remedyOf } from '../../base/errors.ts';
import { plainLines } from '../../base/text/plain.ts';
import type { StoreErrorCode } from '../store/errors.ts';

export type SandboxErrorCode =
  /** A field of the spec is out of range; the message names it. */
  | 'spec_invalid'
  | 'start_failed'
  /** The request is not allowed in the sandbox's current state. */
  | 'not_ready'
  | 'gone'
  | 'not_found'
  | 'name_taken'
  /** The snapshot needs another kernel, image, VMM or processor. */
  | 'snapshot_foreign'
  | 'snapshot_failed'
  /** No space on disk; nothing was written or started, and a running sandbox continues. */
  | 'disk_full'
  /** A file of the snapshot is missing or altered. */
  | 'snapshot_damaged'
  /** A paused sandbox needs the snapshot; a sandbox has the volume. */
  | 'in_use'
  /** The store can't be read or written; the message says why. */
  | 'store_failed'
  /** Too many requests; the error says when to retry. */
  | 'busy'
  /** The memory size can't change; the message says why. The sandbox keeps its size. */
  | 'memory_unavailable'
  /** This host can't provide a network; the message says why. */
  | 'network_unavailable'
  /** Nothing in the sandbox accepts the connection; the message says why. */
  | 'port_unreachable'
  /** This process doesn't have the values of the secrets; set them again. */
  | 'secrets_missing'
  /** The image is unknown, can't be fetched or can't be used; the message says why. */
  | 'image_failed'
  /** A template could not be built; sandboxes still boot. */
  | 'template_failed'
  /** This host can't provide volumes; the message says why. */
  | 'volumes_unavailable'
  /** Only the host's operator may do this. */
  | 'forbidden'
  | 'cancelled';

/** Used if neither the error nor its cause names a better remedy. */
const REMEDIES: Partial<Record<SandboxErrorCode, string>> = {
  gone: 'create a new sandbox; its end is in `neurovisor ls -a`',
  not_found: 'neurovisor ls',
};

export class SandboxError extends CodedError<SandboxErrorCode> {
  constructor(code: SandboxErrorCode, message: string, options: { cause?: unknown; remedy?: string | undefined } = {}) {
    const remedy = options.remedy ?? remedyOf(options.cause) ?? REMEDIES[code];
    super(code, message, { ...options, remedy });
  }
}

/** Store errors that keep their meaning; all others become `store_failed`. */
const STORE_CODES: Partial<Record<StoreErrorCode, SandboxErrorCode>> = {
  not_found: 'not_found',
  name_taken: 'name_taken',
  in_use: 'in_use',
  disk_full: 'disk_full',
  snapshot_damaged: 'snapshot_damaged',
  store_closed: 'cancelled',
};

/**
 * Converts a store error to a SandboxError; returns anything else unchanged. This folder imports only the store's
 * types.
 */
export function fromStore(error: unknown): unknown {
  if (!(error instanceof CodedError) || error.name !== 'StoreError') return error;
  const code = STORE_CODES[error.code as StoreErrorCode] ?? 'store_failed';
  return new SandboxError(code, error.message, { cause: error.cause, remedy: remedyOf(error) });
}

/** Awaits work that may use the store. @throws SandboxError in place of a store error */
export async function translateStoreErrors<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw fromStore(error);
  }
}

/** `disk_full` if a full disk is the cause, else `snapshot_failed`. */
export function saveFailure(cause: unknown): SandboxError {
  const message = 'the sandbox could not be saved; it continues to run';
  // The VMM's driver also writes files of the store.
  if (!isFullDisk(cause)) {
    return new SandboxError('snapshot_failed', message, { cause, remedy: remedyOf(cause) });
  }
  const { remedy = 'free space on the file system of the store, or remove unused snapshots' } = {
    remedy: remedyOf(cause),
  };
  return new SandboxError('disk_full', message, { cause, remedy });
}

/** Refused before anything was started. */
export class BusyError extends SandboxError {
  /** Delay in milliseconds after which a retry is likely to succeed. */
  readonly retryAfterMs: number;

  /** @param options.remedy if waiting alone does not help */
  constructor(message: string, retryAfterMs: number, options: { cause?: unknown; remedy?: string | undefined } = {}) {
    const seconds = Math.ceil(retryAfterMs / 1000);
    super('busy', message, { ...options, remedy: options.remedy ?? `try again in ${seconds} s` });
    this.retryAfterMs = retryAfterMs;
  }
}

export function goneWhileSaving(cause: unknown): SandboxError {
  return new SandboxError('gone', 'the sandbox ended while it was being saved', { cause });
}

/** True if every other way to start the sandbox would fail too: it has no network, or not its volumes. */
export function isWithoutParts(error: unknown): error is SandboxError {
  return error instanceof SandboxError && PART_CODES.has(error.code);
}

const PART_CODES: ReadonlySet<SandboxErrorCode> = new Set([
  'network_unavailable',
  'secrets_missing',
  'volumes_unavailable',
  'in_use',
  'not_found',
]);

/** Remedy for a full disk under the sandboxes' directory. */
export const FREE_SPACE =
  'free space there, for example by neurovisor prune or neurovisor rm, ' +
  'or set NEUROVISOR_HOME to a larger file system';

const CONSOLE_LINES_IN_ERROR = 12;

/** `disk_full` or `start_failed`, with the last lines of the guest's console, which often show the cause. */
export function startFailure(error: unknown, consoleTail: string): SandboxError {
  if (isWithoutParts(error)) return error;
  const lastLines = plainLines(consoleTail).trimEnd().split('\n').slice(-CONSOLE_LINES_IN_ERROR).join('\n');
  const console = lastLines === '' ? '' : `\nlast lines of the guest's console:\n${lastLines}`;
  const why = `${describeError(error)}${console}`;
  const isFull = isFullDisk(error);
  const message = `the sandbox could not be started${isFull ? ': the disk is full' : ''}`;
  const remedy = remedyOf(error) ?? (isFull ? FREE_SPACE : undefined);
  return new SandboxError(isFull ? 'disk_full' : 'start_failed', message, { cause: new Error(why), remedy });
}

/** For an operation whose sandbox was resumed, and stopped by the full disk again. */
export function stalledAgain(id: string): SandboxError {
  const remedy = `free space there, then continue with: neurovisor resume ${id}`;
  const message = `sandbox ${id} is paused: the host's file system that holds its disk is full`;
  return new SandboxError('disk_full', message, { remedy });
}

/** @param what the refused change, for example `paused` */
export function refusal(id: string, status: string, what: string, remedy?: string): SandboxError {
  const code = status === 'ending' || status === 'ended' ? 'gone' : 'not_ready';
  const text = `sandbox ${id} can't be ${what}: it is ${status}`;
  return new SandboxError(code, text, remedy === undefined ? {} : { remedy });
}
