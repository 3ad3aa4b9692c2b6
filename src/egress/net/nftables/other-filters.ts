/** Finds packet filters of other programs that may drop what our table allows. Pure. */
import { TAP_PREFIX } from '../addresses/address-plan.ts';
import { type NftObject, TABLE_NAME } from './json.ts';

export interface OtherFilter {
  /** For messages: `Docker`, or the table. */
  readonly manager: string;
  /** `forward` blocks guests from the network, `input` from our resolver and gateway. */
  readonly hook: 'forward' | 'input';
  readonly remedy: string;
}

const TAPS = `${TAP_PREFIX}+`;

/**
 * Rules of the legacy iptables, which `nft` does not list.
 * @param text output of `iptables-legacy -S`: `-P FORWARD DROP`, `-A FORWARD … -j REJECT …`
 */
export function legacyFilters(text: string): OtherFilter[] {
  const isDocker = text.includes('DOCKER-USER');
  return (['forward', 'input'] as const).flatMap((hook) => {
    const chain = hook.toUpperCase();
    const drops = new RegExp(
      `^-P ${chain} DROP$|^-A ${chain}(?: -m comment --comment \\S+)? -j (?:DROP|REJECT)\\b`,
      'm',
    );
    if (!drops.test(text)) return [];
    const into = isDocker && hook === 'forward' ? 'DOCKER-USER' : chain;
    const to = (way: string): string => `iptables-legacy -I ${into} ${way} ${TAPS} -j ACCEPT`;
    const remedy = hook === 'forward' ? `${to('-i')} && ${to('-o')}` : to('-i');
    return [{ manager: 'iptables-legacy', hook, remedy }];
  });
}

/** @param objects from `nft -j list chains` */
export function otherFilters(objects: readonly NftObject[]): OtherFilter[] {
  const chains = objects.flatMap(({ chain }) =>
    typeof chain === 'object' && chain !== null ? [chain as Readonly<Record<string, unknown>>] : [],
  );
  const has = (name: RegExp): boolean => chains.some((chain) => name.test(String(chain['name'])));
  const isDocker = has(/^DOCKER-USER$/);
  const isUfw = has(/^ufw-/);
  return chains.flatMap(({ family, table, name, hook, policy }) => {
    if (table === TABLE_NAME || (hook !== 'forward' && hook !== 'input')) return [];
    // firewalld accepts by policy and refuses by its last rule.
    if (policy !== 'drop' && table !== 'firewalld') return [];
    if (family !== 'ip' && family !== 'inet') return [];
    return [filterOf(hook, `${family} ${table} ${name}`, { isDocker, isUfw, table })];
  });
}

function filterOf(
  hook: OtherFilter['hook'],
  chain: string,
  { isDocker, isUfw, table }: { isDocker: boolean; isUfw: boolean; table: unknown },
): OtherFilter {
  if (table === 'firewalld') {
    const remedy = `firewall-cmd --permanent --zone=trusted --add-interface=${TAPS} && firewall-cmd --reload`;
    return { manager: 'firewalld', hook, remedy };
  }
  if (isUfw) {
    const verb = hook === 'forward' ? 'ufw route allow in on' : 'ufw allow in on';
    return { manager: 'ufw', hook, remedy: `${verb} ${TAPS}` };
  }
  if (isDocker && hook === 'forward') {
    const to = (direction: string): string => `iptables -I DOCKER-USER ${direction} ${TAPS} -j ACCEPT`;
    return { manager: 'Docker', hook, remedy: `${to('-i')} && ${to('-o')}` };
  }
  const remedy = `nft insert rule ${chain} iifname "${TAP_PREFIX}*" accept`;
  return { manager: `the table of ${chain}`, hook, remedy };
}
