import { describe, expect, it } from 'vitest';
import { legacyFilters, otherFilters } from './other-filters.ts';

const chain = (table: string, name: string, more: object = {}) => ({ chain: { family: 'ip', table, name, ...more } });
const drop = (hook: string) => ({ hook, type: 'filter', prio: 0, policy: 'drop' });

describe('legacyFilters', () => {
  it('reports chains that drop by policy or by a rule for everything', () => {
    const forward = 'iptables-legacy -I FORWARD -i nv-+ -j ACCEPT && iptables-legacy -I FORWARD -o nv-+ -j ACCEPT';
    const found = { manager: 'iptables-legacy', hook: 'forward', remedy: forward };
    expect(legacyFilters('-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT DROP\n')).toEqual([found]);
    const reject = '-A FORWARD -j REJECT --reject-with icmp-port-unreachable';
    expect(legacyFilters(`-P FORWARD ACCEPT\n${reject}`)).toEqual([found]);
    const docker = legacyFilters('-P FORWARD DROP\n-N DOCKER-USER\n');
    expect(docker[0]?.remedy).toContain('-I DOCKER-USER -i nv-+');
    expect(legacyFilters('-P INPUT DROP')).toMatchObject([{ hook: 'input' }]);
  });
  it.each([
    '',
    '-P FORWARD ACCEPT\n-P INPUT ACCEPT',
    '-A FORWARD -i eth0 -j DROP',
    '-A FORWARD2 -j DROP',
    '-P OUTPUT DROP',
  ])('ignores %j', (text) => {
    expect(legacyFilters(text)).toEqual([]);
  });
});

describe('otherFilters', () => {
  it('otherFilters: names the filter that drops forwarded packets, and the remedy', () => {
    const docker = [chain('filter', 'FORWARD', drop('forward')), chain('filter', 'DOCKER-USER')];
    expect(otherFilters(docker)).toEqual([
      {
        manager: 'Docker',
        hook: 'forward',
        remedy: 'iptables -I DOCKER-USER -i nv-+ -j ACCEPT && iptables -I DOCKER-USER -o nv-+ -j ACCEPT',
      },
    ]);
    const ufw = [chain('filter', 'INPUT', drop('input')), chain('filter', 'ufw-user-input')];
    expect(otherFilters(ufw)).toEqual([{ manager: 'ufw', hook: 'input', remedy: 'ufw allow in on nv-+' }]);
    const own = [chain('mine', 'fwd', { ...drop('forward'), family: 'inet' })];
    expect(otherFilters(own)).toEqual([
      {
        manager: 'the table of inet mine fwd',
        hook: 'forward',
        remedy: 'nft insert rule inet mine fwd iifname "nv-*" accept',
      },
    ]);
  });
  it.each([
    ['our own table', chain('neurovisor', 'forward', drop('forward'))],
    ['what accepts', chain('filter', 'FORWARD', { ...drop('forward'), policy: 'accept' })],
    ['what leaves the host', chain('filter', 'OUTPUT', drop('output'))],
    ['IPv6', chain('filter', 'FORWARD', { ...drop('forward'), family: 'ip6' })],
    ['a table', { table: { family: 'ip', name: 'filter' } }],
  ])('ignores %s', (_what, object) => {
    expect(otherFilters([object])).toEqual([]);
  });
});
