import { describe, expect, it } from 'vitest';
import { EGRESS_LIMITS } from '../../../base/request/egress-limits.ts';
import { formatCidr } from '../addresses/addresses.ts';
import { parsePolicy, parseRule } from './egress-rules.ts';

const show = (text: string): string => {
  const rule = parseRule(text);
  const target = rule.kind === 'block' ? formatCidr(rule.block) : `${rule.below ? '*.' : ''}${rule.name}`;
  const ports = rule.ports === undefined ? '' : ` ${rule.ports.first}-${rule.ports.last}`;
  return `${target}${ports}${rule.protocol === undefined ? '' : ` ${rule.protocol}`}`;
};

describe('parseRule', () => {
  it.each([
    ['1.2.3.4', '1.2.3.4/32'],
    ['1.2.3.0/24', '1.2.3.0/24'],
    ['1.2.3.0/24:443', '1.2.3.0/24 443-443'],
    ['1.2.3.4:8000-8010/udp', '1.2.3.4/32 8000-8010 udp'],
    ['0.0.0.0/0', '0.0.0.0/0'],
    ['2606:4700::/32', '2606:4700::/32'],
    ['[2606:4700::/32]', '2606:4700::/32'],
    ['[2606:4700::1]:443/tcp', '2606:4700::1/128 443-443 tcp'],
    ['Example.COM', 'example.com'],
    ['example.com.', 'example.com'],
    ['*.example.com:5432', '*.example.com 5432-5432'],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
  ])('reads %s', (text, shown) => {
    expect(show(text)).toBe(shown);
  });
  it.each([
    ['', 'is not an address'],
    ['1.2.3.4/24', 'the block is 1.2.3.0/24'],
    ['1.2.3.4/33', 'prefix'],
    ['2852039166', 'is not an address or block'],
    ['0xa9.0xfe.1.1', 'is not an address or block'],
    ['example.com/24', 'is not an address or block'],
    ['example..com', 'host name'],
    ['-x y', 'host name'],
    ['*', 'wildcard'],
    ['*.*.com', 'wildcard'],
    ['a.*.com', 'wildcard'],
    ['bücher.example', 'host name'],
    ['http://example.com', 'has no path'],
    ['example.com:', 'port'],
    ['example.com:0', 'port'],
    ['example.com:65536', 'port'],
    ['example.com:90-80', 'port'],
    ['example.com:80/icmp', 'port'],
    ['example.com:1-65535', '64 ports'],
    ['a'.repeat(400), 'too long'],
  ])('refuses %j', (text, why) => {
    expect(() => parseRule(text)).toThrowError(
      expect.objectContaining({
        code: 'policy_invalid',
        message: expect.stringContaining(why),
        remedy: expect.any(String),
      }),
    );
  });
});

describe('parsePolicy', () => {
  it('reads modes and both lists', () => {
    const policy = parsePolicy({ mode: 'allowlist', allow: ['*.pypi.org'], deny: ['1.1.1.1'] });
    expect(policy.allow.map((rule) => rule.text)).toEqual(['*.pypi.org']);
    expect(policy.deny.map((rule) => rule.text)).toEqual(['1.1.1.1']);
  });
  it.each([
    { mode: 'yes' },
    { mode: 'none', allow: ['1.1.1.1'] },
    { mode: 'open', allow: ['169.254.169.254'] },
    { mode: 'open', allow: ['169.254.0.0/16:80'] },
    { mode: 'open', allow: ['168.63.129.16'] },
    { mode: 'open', allow: ['2001:db8::/32'] },
    { mode: 'allowlist', allow: ['[2001:db8::1]:53/udp'] },
    { mode: 'allowlist', allow: ['metadata.google.internal'] },
    { mode: 'allowlist', allow: ['*.metadata.google.internal'] },
  ])('refuses %j', (text) => {
    expect(() => parsePolicy(text)).toThrowError(
      expect.objectContaining({ code: 'policy_invalid', remedy: expect.any(String) }),
    );
  });
  it('names IPv6 in the error, and does not recommend it', () => {
    const refused = (allow: string): unknown => {
      try {
        return parsePolicy({ mode: 'allowlist', allow: [allow] });
      } catch (error) {
        return error;
      }
    };
    expect(refused('::/0')).toMatchObject({
      message: expect.stringContaining('IPv6'),
      remedy: expect.stringContaining('IPv4'),
    });
    expect(refused('not a rule')).toMatchObject({ remedy: expect.not.stringContaining('::') });
    expect(parsePolicy({ mode: 'open', deny: ['::/0'] }).deny).toHaveLength(1);
  });
  it('limits the number of rules', () => {
    const rules = Array.from({ length: EGRESS_LIMITS.rulesMax + 1 }, () => '1.1.1.1');
    expect(() => parsePolicy({ mode: 'open', deny: rules })).toThrowError(
      expect.objectContaining({ code: 'policy_too_large' }),
    );
  });
});
