import { CodedError } from '../../base/errors.ts';

export type BridgeErrorCode =
  /** Listening on a port's socket failed. */
  | 'listen_failed'
  /** The bridge or the port is closed. */
  | 'closed'
  /** An upstream address that is neither an http(s) URL nor `unix:/path`. */
  | 'upstream_invalid'
  /** `models.toml` can't be read, or has a fault. */
  | 'models_file_invalid'
  /** No connection to the upstream, or it broke before the answer. */
  | 'upstream_unreachable'
  /** Every upstream of the model has asked for a pause, or failed too often just now. */
  | 'upstream_limited'
  | 'upstream_unavailable'
  /** The upstream was silent for too long. */
  | 'upstream_timeout'
  /** The upstream's answer was truncated. */
  | 'upstream_died'
  /** The upstream's answer was not that of a model server. */
  | 'upstream_protocol'
  /** The upstream reported an error in the middle of its answer. */
  | 'upstream_failed'
  /** The guest disconnected, or its port was closed. */
  | 'cancelled'
  /** The sandbox is being saved, which ends its connections. */
  | 'suspended';

export class BridgeError extends CodedError<BridgeErrorCode> {}

/** No connection to the upstream: it has seen nothing of the request. */
export class NotConnectedError extends BridgeError {}

/** No upstream of the model takes a request now. */
export class UpstreamsPausedError extends BridgeError {
  readonly retryInMs: number;

  constructor(code: 'upstream_limited' | 'upstream_unavailable', model: string, retryInMs: number) {
    super(code, `no model server of ${model} takes a request now`);
    this.retryInMs = retryInMs;
  }
}
