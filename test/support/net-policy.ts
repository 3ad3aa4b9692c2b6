/** An egress policy made of lists, for tests of names that do not need the real one. */

import type { GatewayPolicy, GatewayVerdict } from '../../src/egress/net/policy/judge.ts';
import type { Verdict } from '../../src/egress/net/policy/verdict.ts';

export interface ListPolicy {
  /** Names, or `*.` and a suffix. */
  readonly names?: readonly string[];
  readonly deniedNames?: readonly string[];
  /** `address:port` pairs that may be connected to under any name. */
  readonly destinations?: readonly string[];
  /** Prefixes of addresses that are never given out. */
  readonly privatePrefixes?: readonly string[];
  readonly metadata?: readonly string[];
  readonly methods?: readonly string[];
  /** Allows everything that is not denied. */
  readonly isOpen?: boolean;
}

export function listPolicy(lists: ListPolicy): GatewayPolicy {
  const { names = [], deniedNames = [], destinations = [], privatePrefixes = [] } = lists;
  const metadata = lists.metadata ?? ['169.254.169.254', 'fd00:ec2::254', '::ffff:a9fe:a9fe'];
  const matches = (rule: string, name: string): boolean =>
    rule.startsWith('*.') ? name.endsWith(rule.slice(1)) : rule === name;
  const yes = (basis: 'address' | 'name' | 'open'): GatewayVerdict => ({ allowed: true, why: '', basis });
  const no = (why: string, isDenied: boolean): GatewayVerdict => ({ allowed: false, why, isDenied });
  const allowsName = (name: string): GatewayVerdict => {
    if (deniedNames.some((rule) => matches(rule, name))) return no(`a rule denies ${name}`, true);
    if (lists.isOpen === true) return yes('open');
    return names.some((rule) => matches(rule, name)) ? yes('name') : no(`no rule allows ${name}`, false);
  };
  const allowsAddress = (address: string): GatewayVerdict => {
    if (metadata.includes(address)) return no(`${address} is a metadata service`, true);
    return privatePrefixes.some((prefix) => address.startsWith(prefix))
      ? no(`${address} is private`, true)
      : yes('open');
  };
  return {
    allowsName,
    allowsAddress,
    decide({ address, port }, given) {
      const itself = allowsAddress(address);
      if (metadata.includes(address)) return itself;
      const denied = given.map(allowsName).find(({ isDenied }) => isDenied === true);
      if (denied !== undefined) return denied;
      if (destinations.includes(`${address}:${port}`)) return yes('address');
      if (!itself.allowed) return itself;
      if (lists.isOpen === true) return yes('open');
      const refused = given.map(allowsName).find(({ allowed }) => !allowed);
      return given.length === 0 ? no('no rule allows the address itself', false) : (refused ?? yes('name'));
    },
    allowsRequest: ({ method }): Verdict =>
      lists.methods?.includes(method) === false ? no(`no rule allows ${method}`, false) : { allowed: true, why: '' },
  };
}
