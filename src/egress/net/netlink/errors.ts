/** Errors of links, addresses, routes, neighbors and TAPs, with remedies. */
import { CodedError } from '../../../base/errors.ts';

type LinkErrorCode =
  | 'exists'
  | 'not_found'
  /** The process lacks CAP_NET_ADMIN or may not open /dev/net/tun. */
  | 'not_permitted'
  | 'busy'
  | 'unsupported'
  /** The kernel or this code refuses a value; the message names it. */
  | 'invalid'
  /** The link of a route is down, or its gateway is on no link. */
  | 'unreachable'
  /** The kernel's tables changed during each of several attempts to read them, or exceed our limits. */
  | 'unreadable'
  /** Not netlink, or an answer to another request. */
  | 'malformed'
  /** The kernel refused for another reason, which is the cause. */
  | 'failed';

export class LinkError extends CodedError<LinkErrorCode> {}

const CODES: Readonly<Record<string, LinkErrorCode>> = {
  EEXIST: 'exists',
  ENODEV: 'not_found',
  ENXIO: 'not_found',
  ENOENT: 'not_found',
  ESRCH: 'not_found',
  EADDRNOTAVAIL: 'not_found',
  EPERM: 'not_permitted',
  EACCES: 'not_permitted',
  EROFS: 'not_permitted',
  EBUSY: 'busy',
  // Node's name for EOPNOTSUPP.
  ENOTSUP: 'unsupported',
  EAFNOSUPPORT: 'unsupported',
  EPROTONOSUPPORT: 'unsupported',
  EINVAL: 'invalid',
  ERANGE: 'invalid',
  ENETDOWN: 'unreachable',
  ENETUNREACH: 'unreachable',
  EHOSTUNREACH: 'unreachable',
};

const REMEDIES: Partial<Record<LinkErrorCode, string>> = {
  exists: 'Choose another name or address, or remove the one that has it.',
  not_permitted: 'Run NeuroVisor as root or with CAP_NET_ADMIN, or create the sandbox without a network.',
  busy: 'End the program that uses it, then try again.',
  unsupported: 'Load the kernel module for it (tun, ipv6), or use a kernel that has it.',
  unreachable: 'Set the link up and give it an address before its routes.',
  unreadable: 'Try again later: the routing tables of the host kept changing.',
};

/**
 * The error for a refusal by errno.
 * @param attempt the failed action with its subject, e.g. `add 10.0.0.1/30 to nv-abc`
 * @param errnoName e.g. `EEXIST`
 */
export function linkError(attempt: string, errnoName: string, cause: unknown): LinkError {
  const code = CODES[errnoName] ?? 'failed';
  const remedy = REMEDIES[code];
  return new LinkError(code, attempt, { cause, ...(remedy === undefined ? {} : { remedy }) });
}
