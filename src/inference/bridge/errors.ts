import { CodedError } from '../../base/errors.ts';

export type BridgeErrorCode =
  | 'listen_failed'
  | 'closed'
  /** The upstream address is neither an http(s) URL nor `unix:/path`. */
  | 'upstream_invalid'
  /** `models.toml` can't be read or is invalid. */
  | 'models_file_invalid'
  /** There was no connection to the upstream, or it broke before the answer. */
  | 'upstream_unreachable'
  /** Every upstream of the model is rate limited, or failed too often recently. */
  | 'upstream_limited'
  | 'upstream_unavailable'
  | 'upstream_timeout'
  | 'upstream_died'
  /** The upstream's answer is not that of a model server. */
  | 'upstream_protocol'
  /** The upstream reported an error in the middle of its answer. */
  | 'upstream_failed'
  /** The guest disconnected, or its port was closed. */
  | 'cancelled'
  /** The sandbox is being saved, which ends its connections. */
  | 'suspended';

export class BridgeError extends CodedError<BridgeErrorCode> {}

/** There was no connection, so the upstream has seen nothing of the request. */
export class NotConnectedError extends BridgeError {}

export class UpstreamsPausedError extends BridgeError {
  readonly retryInMs: number;

  constructor(code: 'upstream_limited' | 'upstream_unavailable', model: string, retryInMs: number) {
    super(code, `no model server of ${model} takes a request now`);
    this.retryInMs = retryInMs;
  }
}

/** @param why what is wrong with the upstream's answer */
export function broken(why: string): BridgeError {
  return new BridgeError('upstream_protocol', why);
}
