/** What a daemon's client can fail with, beside the errors of sandboxes that a daemon passes on. */
import { errorBody } from '../api/schema/answers.ts';
import { CodedError } from '../base/errors.ts';
import { BusyError, SandboxError, type SandboxErrorCode } from '../sandbox/errors.ts';

export type ClientErrorCode =
  /** Nothing answers there. */
  | 'daemon_unreachable'
  /** The connection ended before the answer was complete; what was asked for may have been done. */
  | 'daemon_lost'
  /** The API key is missing or wrong, or the socket is one of another user. */
  | 'unauthorized'
  /** The address is none, or not one that is spoken to. */
  | 'address_invalid'
  /** The daemon refused for another reason, or failed; its message says which. */
  | 'refused'
  /** What answers does not speak this interface: another program, or another version. */
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
  cancelled: true,
};

const SET_KEY = 'set NEUROVISOR_API_KEY to its key, which is in the file api-key of its home';

/** An answer that is no success, as the error that the control plane threw behind it. */
export function answerError(status: number, body: unknown): CodedError {
  const parsed = errorBody.safeParse(body);
  if (!parsed.success) {
    return answerInvalid(`status ${status} without a reason`);
  }
  const { code, message, remedy, retryAfterMs } = parsed.data.error;
  if (code === 'busy') return new BusyError(message, retryAfterMs ?? 1000);
  const options = remedy === null ? {} : { remedy };
  if (isSandboxCode(code)) return new SandboxError(code, message, options);
  // A field that the daemon's schema refuses is one that its control plane would refuse.
  if (code === 'request_invalid') return new SandboxError('spec_invalid', message, options);
  // What the daemon says is for who writes requests himself.
  if (code === 'unauthorized') return new ClientError('unauthorized', message, { remedy: SET_KEY });
  return new ClientError('refused', `${message} (${code})`, options);
}

export function answerInvalid(why: string, cause?: unknown): ClientError {
  const remedy = 'use the same version of neurovisor on both sides';
  return new ClientError('answer_invalid', `the daemon's answer: ${why}`, { cause, remedy });
}

function isSandboxCode(code: string): code is SandboxErrorCode {
  return Object.hasOwn(SANDBOX_CODES, code);
}
