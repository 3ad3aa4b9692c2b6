/** What goes wrong, as HTTP: one table from codes to statuses, one shape of body. */
import { CodedError, describeError } from '../base/errors.ts';
import type { GuestErrorCode } from '../guest/errors.ts';
import { BusyError, SandboxError, type SandboxErrorCode } from '../sandbox/errors.ts';
import { LIMITS } from './limits.ts';

export type ApiErrorCode =
  /** Not HTTP as it should be, no JSON, or a field is missing, unknown or wrong; the message names it. */
  | 'request_invalid'
  /** No API key, or a wrong one. */
  | 'unauthorized'
  /** A browser's page, or a name that is not this machine's: not served, whatever the key. */
  | 'forbidden'
  /** There is no such route. */
  | 'route_not_found'
  /** The body or the headers are larger than the limit. */
  | 'too_large'
  /** The client took too long to send. */
  | 'request_timeout'
  /** The body is of a type that the route does not take. */
  | 'media_type'
  /** The route is only for `Upgrade: neurovisor-guest`. */
  | 'upgrade_required'
  /** The `Idempotency-Key` came before with another body. */
  | 'key_reused'
  /** A fault of the server; its log says more. */
  | 'internal'
  /** Another server listens there. */
  | 'already_running'
  /** The server can't listen there. */
  | 'listen_failed';

export class ApiError extends CodedError<ApiErrorCode> {}

export interface ErrorBody {
  readonly error: {
    readonly code: string;
    readonly message: string;
    /** What a person can do. */
    readonly remedy: string | null;
    /** When a next try is likely to succeed. */
    readonly retryAfterMs?: number | undefined;
  };
}

export interface ErrorAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: ErrorBody;
}

/** Nobody reads it: the client has gone. nginx's number. */
const CLIENT_GONE = 499;

const API: Record<ApiErrorCode, number> = {
  request_invalid: 400,
  unauthorized: 401,
  forbidden: 403,
  route_not_found: 404,
  too_large: 413,
  request_timeout: 408,
  media_type: 415,
  upgrade_required: 426,
  key_reused: 409,
  internal: 500,
  already_running: 500,
  listen_failed: 500,
};

const SANDBOX: Record<SandboxErrorCode, number> = {
  spec_invalid: 400,
  not_found: 404,
  not_ready: 409,
  name_taken: 409,
  snapshot_foreign: 409,
  gone: 410,
  busy: 429,
  cancelled: CLIENT_GONE,
  start_failed: 502,
  snapshot_failed: 502,
  disk_full: 507,
  snapshot_damaged: 409,
  in_use: 409,
  store_failed: 503,
  memory_unavailable: 409,
  network_unavailable: 503,
  port_unreachable: 502,
  secrets_missing: 409,
  template_failed: 502,
};

/** Their codes get `guest_` before them: a file that is not there is not a sandbox that is not there. */
const GUEST: Record<GuestErrorCode, number> = {
  invalid_request: 400,
  permission_denied: 403,
  not_found: 404,
  already_exists: 409,
  suspended: 409,
  too_large: 413,
  cancelled: CLIENT_GONE,
  hello_refused: 502,
  protocol_error: 502,
  connection_lost: 502,
  guest_failed: 502,
  exhausted: 503,
  timeout: 504,
  hello_timeout: 504,
  disk_full: 507,
};

/** Undefined: a fault of ours, which is logged and told without its insides. */
export function statusOf(error: unknown): number | undefined {
  if (error instanceof ApiError) return API[error.code];
  if (error instanceof SandboxError) return SANDBOX[error.code];
  if (isGuestError(error)) return GUEST[error.code];
  return undefined;
}

export function errorAnswer(error: unknown): ErrorAnswer {
  const status = statusOf(error);
  if (status === undefined || !(error instanceof CodedError)) {
    const message = 'the server failed';
    const remedy = 'see its log, and report what you find';
    return { status: 500, headers: {}, body: { error: { code: 'internal', message, remedy } } };
  }
  const body = {
    code: isGuestError(error) ? `guest_${error.code.replace(/^guest_/, '')}` : error.code,
    message: describeError(error).slice(0, LIMITS.messageCharactersMax),
    remedy: error.remedy ?? null,
  };
  if (!(error instanceof BusyError)) return { status, headers: {}, body: { error: body } };
  const { retryAfterMs } = error;
  const headers = { 'retry-after': String(Math.max(1, Math.ceil(retryAfterMs / 1000))) };
  return { status, headers, body: { error: { ...body, retryAfterMs } } };
}

/** This folder sees the guest's types only, so its errors are known by their name. */
function isGuestError(error: unknown): error is CodedError<GuestErrorCode> {
  return error instanceof CodedError && error.name === 'GuestError' && error.code in GUEST;
}
