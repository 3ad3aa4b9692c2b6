import { describe, expect, it } from 'vitest';
import { parseResolvConf } from './resolv-conf.ts';

describe('parseResolvConf', () => {
  it('returns the first three resolvers in order', () => {
    const text = [
      '# nameserver 9.9.9.9',
      'search example.com',
      'nameserver 192.0.2.1',
      'nameserver\t2001:db8::1 # second',
      'nameserver fe80::1%eth0',
      'nameserver none',
      ' nameserver 192.0.2.9',
      'nameserver 192.0.2.3',
      'nameserver 192.0.2.4',
    ].join('\n');
    expect(parseResolvConf(text)).toEqual([
      { address: '192.0.2.1', port: 53 },
      { address: '2001:db8::1', port: 53 },
      { address: '192.0.2.3', port: 53 },
    ]);
  });
  it('returns none if there is none', () => {
    expect(parseResolvConf('')).toEqual([]);
  });
});
