import { CodedError, errorCode } from '../../base/errors.ts';

export type OutgoingErrorCode =
  | 'address_refused'
  /** There was no connection, or it broke. */
  | 'unreachable'
  | 'timeout'
  /** The answer exceeds a limit, or violates the protocol. */
  | 'invalid';

export class OutgoingError extends CodedError<OutgoingErrorCode> {}

/** undici's own codes; all others are those of Node and its parser. */
const CODES: Readonly<Record<string, OutgoingErrorCode>> = {
  UND_ERR_CONNECT_TIMEOUT: 'timeout',
  UND_ERR_HEADERS_TIMEOUT: 'timeout',
  UND_ERR_BODY_TIMEOUT: 'timeout',
  UND_ERR_HEADERS_OVERFLOW: 'invalid',
};

export function readFailure(error: unknown, { host }: URL): OutgoingError {
  const code = errorCode(error);
  const reason = code === undefined ? '' : `: ${code}`;
  return new OutgoingError(CODES[code ?? ''] ?? 'unreachable', `connect to ${host}${reason}`, { cause: error });
}
