import { CodedError } from '../../base/errors.ts';

type NetErrorCode =
  /** The address pool is unusable for sandboxes. */
  | 'pool_invalid'
  /** Every /30 of the pool is leased. */
  | 'pool_exhausted'
  /** A route or address of the host overlaps the pool. */
  | 'pool_conflict'
  /** Another NeuroVisor process hangs, or the state directory is not writable. */
  | 'host_state'
  /** A NeuroVisor of another version has sandboxes in the packet filter. */
  | 'table_of_other_version'
  /** The network or lease was closed meanwhile. */
  | 'closed'
  /** The guest does not take a connection from the host; the cause says why. */
  | 'guest_unreachable'
  /** Too many connections from the host to one sandbox. */
  | 'guest_connections'
  /** An egress rule or policy is invalid, or could never have an effect; the message names it. */
  | 'policy_invalid'
  /** Too many rules, or combinations of them, for one sandbox. */
  | 'policy_too_large'
  /** The `nft` command is not installed. */
  | 'nft_missing'
  /** This process may not change the packet filter. */
  | 'nft_not_permitted'
  /** `nft` refused the transaction and applied nothing; the cause has its text. */
  | 'nft_refused'
  /** `nft` did not end in time, or printed too much. */
  | 'nft_failed';

/** Errors of addresses, policies and the packet filter; links have `LinkError`. */
export class NetError extends CodedError<NetErrorCode> {}
