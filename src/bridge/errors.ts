import { CodedError } from '../base/errors.ts';

export type BridgeErrorCode =
  /** Listening on a port's socket failed. */
  | 'listen_failed'
  /** The bridge or the port is closed. */
  | 'closed'
  /** An upstream address that is neither an http(s) URL nor `unix:/path`. */
  | 'upstream_invalid'
  /** No connection to the upstream, or it broke before the answer. */
  | 'upstream_unreachable'
  /** The upstream was silent for too long. */
  | 'upstream_timeout'
  /** The upstream's answer was truncated. */
  | 'upstream_died'
  /** The upstream's answer was not that of a model server. */
  | 'upstream_protocol'
  /** The upstream reported an error in the middle of its answer. */
  | 'upstream_failed'
  /** The guest disconnected, or its port was closed. */
  | 'cancelled';

export class BridgeError extends CodedError<BridgeErrorCode> {}
