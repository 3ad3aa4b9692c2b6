import { CodedError } from '../base/errors.ts';

export type BridgeErrorCode =
  /** The socket of a port can't be listened on. */
  | 'listen_failed'
  /** The bridge or the port is closed. */
  | 'closed'
  /** An upstream address that is neither an http(s) URL nor `unix:/path`. */
  | 'upstream_invalid'
  /** No connection to the upstream, or it broke before it answered. */
  | 'upstream_unreachable'
  /** The upstream was silent for too long. */
  | 'upstream_timeout'
  /** The upstream's answer ended before its end. */
  | 'upstream_died'
  /** The upstream answered with something that a model server does not say. */
  | 'upstream_protocol'
  /** The guest went away, or its port was closed. */
  | 'cancelled';

export class BridgeError extends CodedError<BridgeErrorCode> {}
