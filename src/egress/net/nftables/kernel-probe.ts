/**
 * Checks that this kernel supports the features of our rules. A separate table is added and deleted in one transaction,
 * so it never becomes visible; nftables refuses features without a kernel module. Pure.
 */
import {
  assign,
  beyondConnections,
  beyondRate,
  CT_ZONE,
  DESTINATION_ROUTE,
  DROP,
  equal,
  type NftExpression,
  type NftObject,
  RESET,
  within,
} from './json.ts';

export const KERNEL_FEATURES: Readonly<Record<string, NftExpression>> = {
  'conntrack zones': assign(CT_ZONE, 1),
  'fib expressions': equal(DESTINATION_ROUTE, 'local'),
  'limits of connections': beyondConnections(1),
  'limits of rates': beyondRate(1_000_000, 65_536),
  quotas: within(1),
  refusals: RESET,
};

const FAMILY = 'inet';
const TABLE = 'neurovisor_probe';
const CHAIN = 'probe';

export function probeFeature(expression: NftExpression): NftObject[] {
  const table = { family: FAMILY, name: TABLE };
  const isVerdict = 'reject' in expression;
  const expr = isVerdict ? [expression] : [expression, DROP];
  return [
    { add: { table } },
    { add: { chain: { family: FAMILY, table: TABLE, name: CHAIN } } },
    { add: { rule: { family: FAMILY, table: TABLE, chain: CHAIN, expr } } },
    { delete: { table } },
  ];
}
