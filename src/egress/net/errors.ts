import { CodedError } from '../../base/errors.ts';

type NetErrorCode =
  | 'pool_invalid'
  | 'pool_exhausted'
  | 'pool_conflict'
  /** Another NeuroVisor process hangs, or the state directory is not writable. */
  | 'host_state'
  /** A NeuroVisor of another version has sandboxes in the packet filter. */
  | 'table_of_other_version'
  | 'closed'
  /** The guest does not accept a connection from the host; the cause says why. */
  | 'guest_unreachable'
  | 'guest_connections'
  /** An egress rule or policy is invalid, or could never have an effect; the message names it. */
  | 'policy_invalid'
  | 'policy_too_large'
  | 'nft_missing'
  | 'nft_not_permitted'
  /** `nft` refused the transaction and applied nothing; the cause has its text. */
  | 'nft_refused'
  | 'nft_failed';

export class NetError extends CodedError<NetErrorCode> {}
