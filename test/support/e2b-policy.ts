/** The network settings of E2B's API as a policy, for the stand-in of its endpoint. */
import { cidrsOf, rangeOf, subtractRanges } from '../../src/egress/net/addresses/addresses.ts';
import { POLICY_NONE, parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import type { EgressPolicy, EgressRule } from '../../src/egress/net/policy/policy.ts';

export interface E2bNetwork {
  readonly allowInternetAccess?: boolean;
  readonly allowOut?: readonly string[];
  readonly denyOut?: readonly string[];
}

/**
 * Allows the same as E2B (https://e2b.dev/docs/network/internet-access), except metadata and private ranges. There, an
 * allowed destination wins over a denied one; here, allowed destinations are removed from the denied ones.
 */
export function policyFromE2b(network: E2bNetwork): EgressPolicy {
  const { allowInternetAccess = true, allowOut = [], denyOut = [] } = network;
  const isClosed = !allowInternetAccess || denyOut.includes('0.0.0.0/0');
  if (isClosed && allowOut.length === 0) return POLICY_NONE;
  if (isClosed) return parsePolicy({ mode: 'allowlist', allow: allowOut });
  const { allow, deny } = parsePolicy({ mode: 'open', allow: allowOut, deny: denyOut });
  const isBlock = (rule: EgressRule) => rule.kind === 'block';
  const allowed = allow.filter(isBlock).flatMap(({ ports, block }) => (ports === undefined ? [rangeOf(block)] : []));
  const denied = deny.filter(isBlock).flatMap((rule) =>
    subtractRanges([rangeOf(rule.block)], allowed)
      .flatMap(cidrsOf)
      .map((block) => ({ ...rule, block })),
  );
  return { mode: 'open', allow, deny: denied };
}
