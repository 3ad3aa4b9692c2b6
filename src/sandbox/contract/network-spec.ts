/** What a sandbox may connect to, as it is requested and as it is checked. */
import type { BytesByName } from '../../egress/net/policy/destination-budgets.ts';
import type { EgressMode, EgressPolicy } from '../../egress/net/policy/policy.ts';
import { check } from './checks.ts';
import { type NetworkLimits, type NetworkOptions, networkOptions } from './schema/network.ts';
import { parse } from './schema/parse.ts';

export type { NetworkLimits, NetworkOptions } from './schema/network.ts';

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
  const asked = parse(networkOptions, options, 'network');
  const limits = networkLimits(asked.limits ?? before?.limits ?? {});
  return { policy: parseEgress({ ...asked, limits }), limits };
}

/** The rules of a policy, as they were written. */
export function egressText({ mode, allow, deny }: EgressPolicy): EgressText {
  return { mode, allow: allow.map(({ text }) => text), deny: deny.map(({ text }) => text) };
}

const DESTINATIONS = 'network.limits.destinations';
const DESTINATION = /^(?=.{1,255}$)(?:\*\.)?(?:[a-z0-9_-]{1,63}\.)+[a-z0-9_-]{1,63}$/;

/** Names as DNS compares them. */
function networkLimits({ destinations = [], ...numbers }: NetworkLimits): NetworkLimits {
  if (destinations.length === 0) return numbers;
  const made = destinations.map(({ name: text, bytesMax }) => {
    const name = text.toLowerCase().replace(/\.$/, '');
    check(DESTINATION.test(name), DESTINATIONS, `"${text.slice(0, 80)}" is not a host name or *.host name`);
    return { name, bytesMax };
  });
  const isTwice = new Set(made.map(({ name }) => name)).size < made.length;
  check(!isTwice, DESTINATIONS, 'a name is limited twice');
  return { ...numbers, destinations: made };
}
