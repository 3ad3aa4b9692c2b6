/** Errors of the client itself. Errors of sandboxes pass through from the daemon. */
import { CodedError } from '../../base/errors.ts';
import { BusyError, SandboxError, type SandboxErrorCode } from '../../sandbox/contract/errors.ts';
import { errorBody } from './answers.ts';

export type ClientErrorCode =
  | 'daemon_unreachable'
  /** The connection ended before the answer was complete; the request may have taken effect. */
  | 'daemon_lost'
  /** The API key is missing or wrong, or the socket belongs to another user. */
  | 'unauthorized'
  | 'address_invalid'
  /** The daemon's certificate is not trusted, expired, or of another name. */
  | 'certificate_invalid'
  /** The daemon refused or failed for another reason, which the message names. */
  | 'refused'
  /** The answer does not match the API: another program, or another version. */
  | 'answer_invalid';

export class ClientError extends CodedError<ClientErrorCode> {}

const SANDBOX_CODES: Record<SandboxErrorCode, true> = {
  spec_invalid: true,
  start_failed: true,
  not_ready: true,
  gone: true,
  not_found: true,
  name_taken: true,
  snapshot_failed: true,
  disk_full: true,
  snapshot_damaged: true,
  in_use: true,
  store_failed: true,
  snapshot_foreign: true,
  busy: true,
  memory_unavailable: true,
  network_unavailable: true,
  port_unreachable: true,
  secrets_missing: true,
  template_failed: true,
  image_failed: true,
  volumes_unavailable: true,
  forbidden: true,
  cancelled: true,
};

const SET_KEY = "set NEUROVISOR_API_KEY to the key in the file api-key of the daemon's home";

/** Converts an error answer to the error that the daemon's control plane threw. */
export function answerError(status: number, body: unknown): CodedError {
  const read = errorBody.read(body);
  if (read === null) return answerInvalid(`status ${status} without an error body`);
  const { code, message, remedy, retryAfterMs } = read.value.error;
  const options = remedy === null ? {} : { remedy };
  if (code === 'busy') return new BusyError(message, retryAfterMs ?? 1000, options);
  if (isSandboxCode(code)) return new SandboxError(code, message, options);
  // An error of images, models or what builds them, with its own code.
  if (code.startsWith('home_')) return new CodedError(code.slice('home_'.length), message, options);
  // The control plane would have refused the field that the schema refused.
  if (code === 'request_invalid') return new SandboxError('spec_invalid', message, options);
  // The daemon's remedy is about request headers.
  if (code === 'unauthorized') return new ClientError('unauthorized', message, { remedy: SET_KEY });
  return new ClientError('refused', `${message} (${code})`, options);
}

export function answerInvalid(why: string, cause?: unknown): ClientError {
  const remedy = 'use the same version of NeuroVisor on both sides';
  return new ClientError('answer_invalid', `invalid answer from the daemon: ${why}`, { cause, remedy });
}

function isSandboxCode(code: string): code is SandboxErrorCode {
  return Object.hasOwn(SANDBOX_CODES, code);
}
