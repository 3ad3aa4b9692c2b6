import { CodedError } from '../base/errors.ts';

type NetErrorCode =
  /** The address pool is not one that sandboxes can be given addresses from. */
  | 'pool_invalid'
  /** Every /30 of the pool is leased. */
  | 'pool_exhausted'
  /** A route or address of the host lies in the pool. */
  | 'pool_conflict'
  /** Another NeuroVisor stands still, or its directory of state can't be written. */
  | 'host_state'
  /** A NeuroVisor of another version has sandboxes in the packet filter. */
  | 'table_of_other_version'
  /** The network was closed while this was asked for. */
  | 'closed'
  /** Nobody takes the connection that the host makes into the guest; the cause says why. */
  | 'guest_unreachable'
  /** As many of those as one sandbox has at once are open. */
  | 'guest_connections'
  /** An egress rule or policy that can't be read, or can never have an effect; the message names it. */
  | 'policy_invalid'
  /** More rules, or more combinations of them, than one sandbox may have. */
  | 'policy_too_large'
  /** The `nft` command is not installed. */
  | 'nft_missing'
  /** This process may not change the packet filter. */
  | 'nft_not_permitted'
  /** `nft` refused the transaction, of which nothing was applied; the cause is its text. */
  | 'nft_refused'
  /** `nft` did not end in time, or said more than we read. */
  | 'nft_failed';

/** Of addresses, policies and the packet filter; links have `LinkError`. */
export class NetError extends CodedError<NetErrorCode> {}
