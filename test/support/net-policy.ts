/** An egress policy made of lists, for tests of names. */
import type { Verdict } from '../../src/net/dns-answers.ts';
import type { GatewayPolicy } from '../../src/net/gateway-judge.ts';

export interface ListPolicy {
  /** Names, or `*.` and a suffix. */
  readonly names?: readonly string[];
  readonly deniedNames?: readonly string[];
  /** Addresses that may be told and, with a port, connected to under any name. */
  readonly destinations?: readonly string[];
  /** Prefixes of addresses that are never told. */
  readonly privatePrefixes?: readonly string[];
  readonly metadata?: readonly string[];
  readonly methods?: readonly string[];
}

export function listPolicy(lists: ListPolicy): GatewayPolicy {
  const { names = [], deniedNames = [], destinations = [], privatePrefixes = [] } = lists;
  const metadata = lists.metadata ?? ['169.254.169.254', 'fd00:ec2::254', '::ffff:a9fe:a9fe'];
  const yes: Verdict = { allowed: true, why: '' };
  const matches = (rule: string, name: string): boolean =>
    rule.startsWith('*.') ? name.endsWith(rule.slice(1)) : rule === name;
  return {
    allowsName(name) {
      if (deniedNames.some((rule) => matches(rule, name)))
        return { allowed: false, isDenied: true, why: `a rule denies ${name}` };
      return names.some((rule) => matches(rule, name))
        ? yes
        : { allowed: false, why: `no rule allows ${name}` };
    },
    allowsAddress(address) {
      if (metadata.includes(address))
        return { allowed: false, isDenied: true, why: `${address} is a metadata service` };
      return privatePrefixes.some((prefix) => address.startsWith(prefix))
        ? { allowed: false, why: `${address} is private` }
        : yes;
    },
    allowsDestination: (address, port) =>
      destinations.includes(`${address}:${port}`) ? yes : { allowed: false, why: 'no rule' },
    allowsRequest: ({ method }) =>
      lists.methods?.includes(method) === false
        ? { allowed: false, why: `no rule allows ${method}` }
        : yes,
  };
}
