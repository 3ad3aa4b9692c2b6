import { describe, expect, it } from 'vitest';
import { newSandboxId, type SandboxId } from '../../../base/ids.ts';
import { AddressPlan, assertPoolFree, macOf, parsePool, poolConflicts } from './address-plan.ts';
import { cidr, cidrsOverlap } from './addresses.ts';

const id = (text: string): SandboxId => text.padEnd(20, '0') as SandboxId;

describe('AddressPlan', () => {
  it('leases each sandbox a /30: host .1, guest .2', () => {
    const plan = new AddressPlan();
    expect(plan.lease(id('abcdefghijk'))).toEqual({
      id: id('abcdefghijk'),
      subnet: cidr('10.201.0.0/30'),
      prefix: 30,
      hostAddress: '10.201.0.1',
      guestAddress: '10.201.0.2',
      guestMac: macOf(id('abcdefghijk')),
      tap: 'nv-abcdefgh',
    });
    expect(plan.lease(id('b'))).toMatchObject({ hostAddress: '10.201.0.5', guestAddress: '10.201.0.6' });
    expect(plan.lease(id('b'))).toBe(plan.get(id('b')));
    expect(plan.capacity).toBe(16_384);
  });
  it('throws when the pool is exhausted, and leases again after a release', () => {
    const plan = new AddressPlan('10.9.9.0/29');
    plan.lease(id('a'));
    plan.lease(id('b'));
    expect(() => plan.lease(id('c'))).toThrowError(
      expect.objectContaining({ code: 'pool_exhausted', remedy: expect.stringContaining('POOL') }),
    );
    plan.release(id('a'));
    plan.release(id('a'));
    expect(plan.lease(id('c')).hostAddress).toBe('10.9.9.1');
    expect(plan.leases().map((lease) => lease.id)).toEqual([id('b'), id('c')]);
  });
  it('does not lease a released address again at once', () => {
    const plan = new AddressPlan('10.9.9.0/28');
    plan.lease(id('a'));
    plan.release(id('a'));
    expect(plan.lease(id('b')).hostAddress).toBe('10.9.9.5');
  });
  it('skips subnets of other processes, and is exhausted if nothing else is left', () => {
    const plan = new AddressPlan('10.9.9.0/29');
    const first = cidr('10.9.9.0/30');
    expect(plan.lease(id('a'), (each) => cidrsOverlap(each, first)).hostAddress).toBe('10.9.9.5');
    expect(() => plan.lease(id('b'), (each) => cidrsOverlap(each, first))).toThrowError(
      expect.objectContaining({ code: 'pool_exhausted' }),
    );
    expect(plan.lease(id('b')).hostAddress).toBe('10.9.9.1');
  });
  it('finds another TAP name for ids with the same prefix', () => {
    const plan = new AddressPlan();
    const taps = ['a', 'b', 'c'].map((end) => plan.lease(`sameeight00${end}00000000` as SandboxId));
    expect(new Set(taps.map((lease) => lease.tap)).size).toBe(3);
    for (const { tap } of taps) expect(tap).toMatch(/^nv-[a-z0-9]{8}$/);
  });
});

describe('macOf', () => {
  it('is a locally administered unicast address, equal for equal ids', () => {
    const one = newSandboxId();
    expect(macOf(one)).toMatch(/^aa:fc(:[0-9a-f]{2}){4}$/);
    expect(macOf(one)).toBe(macOf(one));
    expect(macOf(id('a'))).not.toBe(macOf(id('b')));
    expect(0xaa & 3).toBe(2);
  });
});

describe('parsePool', () => {
  it.each(['10.201.0.0/16', '172.16.0.0/12', '192.168.5.0/24', '100.64.0.0/10', '10.0.0.0/30'])(
    'accepts %s',
    (text) => {
      expect(parsePool(text)).toEqual(cidr(text));
    },
  );
  it.each([
    '',
    'x',
    '8.8.0.0/16',
    '10.0.0.0/7',
    '10.0.0.0/31',
    '172.16.0.0/11',
    '172.0.0.0/8',
    '169.254.0.0/16',
    '127.0.0.0/16',
    'fd00::/48',
    '10.201.0.1/16',
  ])('refuses %j', (text) => {
    expect(() => parsePool(text)).toThrowError(
      expect.objectContaining({ code: 'pool_invalid', remedy: expect.any(String) }),
    );
  });
  it('poolConflicts: finds routes and addresses that overlap the pool, except the default route', () => {
    const pool = cidr('10.201.0.0/16');
    const inside = { block: cidr('10.201.7.0/24'), what: 'route via eth0' };
    const around = { block: cidr('10.0.0.0/8'), what: 'route via tun0' };
    const harmless = [
      { block: cidr('0.0.0.0/0'), what: 'default route' },
      { block: cidr('10.202.0.0/16'), what: 'route' },
      { block: cidr('fd00::/8'), what: 'route' },
    ];
    expect(poolConflicts(pool, [inside, around, ...harmless])).toEqual([inside, around]);
    expect(() => assertPoolFree(pool, harmless)).not.toThrow();
    expect(() => assertPoolFree(pool, [inside])).toThrowError(
      expect.objectContaining({
        code: 'pool_conflict',
        message: expect.stringContaining('10.201.7.0/24 (route via eth0)'),
        remedy: expect.stringContaining('NEUROVISOR_NET_POOL'),
      }),
    );
  });
});
