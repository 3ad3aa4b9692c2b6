/** What a sandbox may connect to, as it is requested and as it is checked. */
import type { BytesByName, DestinationLimit } from '../../egress/net/policy/destination-budgets.ts';
import type { EgressMode, EgressPolicy } from '../../egress/net/policy/policy.ts';
import { check, inRange, inRanges } from './checks.ts';
import { RANGES, type Range, REQUEST_LIMITS } from './limits.ts';

/** What a sandbox may connect to, and how much of it. */
export interface NetworkSpec {
  /** The same object from the request's rules to the packet filter. */
  readonly policy: EgressPolicy;
  /** An absent limit means none, except for connections (2,048). */
  readonly limits: NetworkLimits;
  /** Bytes of `limits.bytesMax` used by earlier network cards. Not part of a request: saved by a pause. */
  readonly bytesUsed?: number;
  /** The same for `limits.destinations`, by name. */
  readonly destinationBytesUsed?: BytesByName;
}

/** Limits of IPv4 packets between guest and host, headers included. */
export interface NetworkLimits {
  /** Both directions together, over the sandbox's life. Beyond it, connections are reset and refused. */
  readonly bytesMax?: number;
  /** As the guest sees it. */
  readonly uploadBytesPerSecond?: number;
  readonly downloadBytesPerSecond?: number;
  /** Concurrent connections, to the network and to the host. */
  readonly connectionsMax?: number;
  /** By host name: TLS and HTTP on ports 443 and 80, both directions, without packet headers. */
  readonly destinations?: readonly DestinationLimit[];
}

/** A network as it is requested: rules as people write them (`docs/network.md`). */
export interface NetworkOptions {
  /** `none`: nothing. `allowlist`: only what a rule allows. `open`: the internet except what a rule denies. */
  readonly mode: EgressMode;
  readonly allow?: readonly string[] | undefined;
  readonly deny?: readonly string[] | undefined;
  /** Replaces all limits. Absent: none; a sandbox with a network keeps its limits. */
  readonly limits?: NetworkLimits | undefined;
}

/** A policy as people write it. */
export interface EgressText {
  readonly mode: EgressMode;
  readonly allow: readonly string[];
  readonly deny: readonly string[];
}

/**
 * Parses the rules of a request; the only place that does.
 * @throws SandboxError `spec_invalid`, naming the rule
 */
export type ParseEgress = (options: NetworkOptions) => EgressPolicy;

/**
 * @param before the sandbox's network now: its limits stay if `options` names none
 * @throws SandboxError `spec_invalid`
 */
export function networkSpec(
  options: NetworkOptions | null,
  parseEgress: ParseEgress,
  before: NetworkSpec | null = null,
): NetworkSpec | null {
  if (options === null) return null;
  const limits = networkLimits(options.limits ?? before?.limits ?? {});
  return { policy: parseEgress({ ...options, limits }), limits };
}

/** The rules of a policy, as they were written. */
export function egressText({ mode, allow, deny }: EgressPolicy): EgressText {
  return { mode, allow: allow.map(({ text }) => text), deny: deny.map(({ text }) => text) };
}

const NETWORK_RANGES = {
  bytesMax: RANGES.networkBytes,
  uploadBytesPerSecond: RANGES.networkBytesPerSecond,
  downloadBytesPerSecond: RANGES.networkBytesPerSecond,
  connectionsMax: RANGES.networkConnections,
} satisfies Record<Exclude<keyof NetworkLimits, 'destinations'>, Range>;

function networkLimits({ destinations = [], ...numbers }: NetworkLimits): NetworkLimits {
  const byName = destinations.length === 0 ? {} : { destinations: destinationLimits(destinations) };
  return { ...inRanges('network.limits', numbers, NETWORK_RANGES), ...byName };
}

const DESTINATION = /^(?=.{1,255}$)(?:\*\.)?(?:[a-z0-9_-]{1,63}\.)+[a-z0-9_-]{1,63}$/;

function destinationLimits(limits: readonly DestinationLimit[]): DestinationLimit[] {
  const field = 'network.limits.destinations';
  const { networkDestinationsMax: most } = REQUEST_LIMITS;
  check(limits.length <= most, field, `at most ${most}`);
  const made = limits.map(({ name: text, bytesMax }) => {
    const name = text.toLowerCase().replace(/\.$/, '');
    check(DESTINATION.test(name), field, `"${text.slice(0, 80)}" is not a host name or *.host name`);
    return { name, bytesMax: inRange(`${field} ${name}`, bytesMax, RANGES.networkBytes) };
  });
  const isTwice = new Set(made.map(({ name }) => name)).size < made.length;
  check(!isTwice, field, 'a name is limited twice');
  return made;
}
