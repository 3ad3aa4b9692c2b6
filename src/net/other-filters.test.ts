import { describe, expect, it } from 'vitest';
import { otherFilters } from './other-filters.ts';

const chain = (table: string, name: string, more: object = {}) => ({
  chain: { family: 'ip', table, name, ...more },
});
const drop = (hook: string) => ({ hook, type: 'filter', prio: 0, policy: 'drop' });

describe('otherFilters', () => {
  it('tells who drops what is forwarded, and what would let guests through', () => {
    const docker = [chain('filter', 'FORWARD', drop('forward')), chain('filter', 'DOCKER-USER')];
    expect(otherFilters(docker)).toEqual([
      {
        manager: 'Docker',
        hook: 'forward',
        remedy:
          'iptables -I DOCKER-USER -i nv-+ -j ACCEPT && iptables -I DOCKER-USER -o nv-+ -j ACCEPT',
      },
    ]);
    const ufw = [chain('filter', 'INPUT', drop('input')), chain('filter', 'ufw-user-input')];
    expect(otherFilters(ufw)).toEqual([
      { manager: 'ufw', hook: 'input', remedy: 'ufw allow in on nv-+' },
    ]);
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
  ])('passes over %s', (_what, object) => {
    expect(otherFilters([object])).toEqual([]);
  });
});
