/** An egress policy as resolver and gateway use it. Pure. */
import type { DestinationBudgets } from './destination-budgets.ts';
import type { GatewayPolicy, GatewayVerdict } from './judge.ts';
import { decide, decideAnswer, decideName, type EgressDecision, type EgressPolicy } from './policy.ts';
import { decideRequest, needsDecryption } from './request-policy.ts';

/** @param policy of one sandbox; a changed policy needs a new call @param budgets absent for no limits by name */
export function namePolicy(policy: EgressPolicy, budgets?: Pick<DestinationBudgets, 'isExhausted'>): GatewayPolicy {
  return {
    allowsName: (name) => verdictOf(decideName(policy, name)),
    allowsAddress: (address) => verdictOf(decideAnswer(policy, address)),
    decide: ({ address, port }, names) => verdictOf(decide(policy, { address, port, protocol: 'tcp', names })),
    allowsRequest: (head) => decideRequest(policy, head),
    decrypts: (name) => needsDecryption(policy, name),
    isExhausted: (name) => budgets?.isExhausted(name) === true,
  };
}

function verdictOf({ allowed, reason, why }: EgressDecision): GatewayVerdict {
  switch (reason) {
    case 'listed_block':
      return { allowed, why, basis: 'address' };
    case 'listed_name':
      return { allowed, why, basis: 'name' };
    case 'open':
      return { allowed, why, basis: 'open' };
    default:
      return { allowed, why, isDenied: reason !== 'not_listed' };
  }
}
