import { describe, expect, it } from 'vitest';
import { parsePolicy, parseRule } from './egress-rules.ts';
import {
  decide,
  decideAnswer,
  decideName,
  decidesByName,
  type EgressPolicy,
  pinnedPorts,
  type Transport,
} from './policy.ts';

const list = (...allow: string[]): EgressPolicy => parsePolicy({ mode: 'allowlist', allow });
/** Accepts IPv6 rules too, which are refused in a policy that people write. */
const open = (allow: string[] = [], deny: string[] = []): EgressPolicy => ({
  mode: 'open',
  allow: allow.map(parseRule),
  deny: deny.map(parseRule),
});
const to = (
  policy: EgressPolicy,
  address: string,
  port = 443,
  names: string[] = [],
  protocol: Transport = 'tcp',
): string => decide(policy, { address, port, protocol, names }).reason;

describe('decide', () => {
  it('none refuses everything', () => {
    expect(to(parsePolicy({ mode: 'none' }), '1.1.1.1')).toBe('mode_none');
  });
  it('open allows the public internet only', () => {
    expect(to(open(), '1.1.1.1')).toBe('open');
    expect(to(open(), '2606:4700::1')).toBe('open');
    for (const address of ['10.0.0.1', '127.0.0.1', '192.168.1.1', '100.64.0.1', '::1', 'fd00::1']) {
      expect([address, to(open(), address)]).toEqual([address, 'private']);
    }
    expect(to(open(), '::ffff:10.0.0.1')).toBe('private');
    expect(to(open(), '64:ff9b::a00:1')).toBe('private');
  });
  it('a private range is opened by a block inside it, not by one around it', () => {
    expect(to(open(['0.0.0.0/0']), '10.0.0.1')).toBe('private');
    expect(to(open(['10.1.0.0/16']), '10.1.2.3')).toBe('listed_block');
    expect(to(open(['10.1.0.0/16']), '10.2.0.1')).toBe('private');
    expect(to(list('10.1.0.0/16:5432'), '10.1.2.3', 5432)).toBe('listed_block');
    expect(to(list('10.1.0.0/16:5432'), '10.1.2.3', 5433)).toBe('private');
    // A translator's own prefix is public, but the address inside it is not.
    expect(to(open(['64:ff9b::/96']), '64:ff9b::a00:1')).toBe('private');
  });
  it('metadata is refused in every spelling, whatever is allowed', () => {
    const policy = open(['0.0.0.0/0', '::/0', '168.63.0.0/16', '100.64.0.0/10', 'fc00::/7']);
    for (const address of [
      '169.254.169.254',
      '2852039166',
      '0xa9fea9fe',
      '0251.0376.0251.0376',
      '::ffff:169.254.169.254',
      '64:ff9b::a9fe:a9fe',
      '168.63.129.16',
      '100.100.100.200',
      'fd00:ec2::254',
    ]) {
      expect([address, to(policy, address, 80)]).toEqual([address, 'metadata']);
    }
    expect(to(policy, '8.8.8.8', 80, ['metadata.google.internal'])).toBe('metadata');
    expect(to(policy, '8.8.8.8', 80, ['Metadata.Google.Internal.'])).toBe('metadata');
    expect(to(policy, '168.63.129.17')).toBe('listed_block');
  });
  it('deny beats allow', () => {
    expect(to(open(['8.8.8.8'], ['8.8.0.0/16']), '8.8.8.8')).toBe('denied');
    expect(to(open([], ['8.8.8.8:53/udp']), '8.8.8.8', 53, [], 'udp')).toBe('denied');
    expect(to(open([], ['8.8.8.8:53/udp']), '8.8.8.8', 53)).toBe('open');
    expect(to(open([], ['*.evil.example']), '8.8.8.8', 22, ['a.evil.example'])).toBe('denied');
    expect(to(open([], ['8.8.8.8']), '64:ff9b::808:808')).toBe('denied');
  });
  it('a name is allowed on 80 and 443, or on the ports of its rule', () => {
    const policy = list('example.com', 'db.example.com:5432', 'quic.example.com:443/udp');
    expect(to(policy, '1.1.1.1', 443, ['example.com'])).toBe('listed_name');
    expect(to(policy, '1.1.1.1', 80, ['EXAMPLE.com.'])).toBe('listed_name');
    expect(to(policy, '1.1.1.1', 22, ['example.com'])).toBe('not_listed');
    expect(to(policy, '1.1.1.1', 443, ['example.com'], 'udp')).toBe('not_listed');
    expect(to(policy, '1.1.1.1', 5432, ['db.example.com'])).toBe('listed_name');
    expect(to(policy, '1.1.1.1', 443, ['db.example.com'])).toBe('not_listed');
    expect(to(policy, '1.1.1.1', 443, ['quic.example.com'], 'udp')).toBe('listed_name');
  });
  it('a wildcard matches every name below, but neither the name itself nor look-alikes', () => {
    const policy = list('*.example.com');
    expect(to(policy, '1.1.1.1', 443, ['a.b.example.com'])).toBe('listed_name');
    expect(to(policy, '1.1.1.1', 443, ['example.com'])).toBe('not_listed');
    expect(to(policy, '1.1.1.1', 443, ['notexample.com'])).toBe('not_listed');
    expect(to(policy, '1.1.1.1', 443, ['a.example.com.evil.test'])).toBe('not_listed');
  });
  it('all names must be allowed: SNI and Host', () => {
    const policy = list('example.com');
    expect(to(policy, '1.1.1.1', 443, ['example.com', 'evil.test'])).toBe('not_listed');
    expect(to(policy, '1.1.1.1', 443, [])).toBe('not_listed');
    expect(to(policy, '1.1.1.1', 443, ['example.com', ''])).toBe('bad_name');
    expect(to(policy, '1.1.1.1', 443, ['example.com', '1.1.1.1'])).toBe('bad_name');
  });
  it('an allowed name does not open a private address', () => {
    expect(to(list('example.com'), '10.0.0.1', 443, ['example.com'])).toBe('private');
  });
  it('refuses text that is not an address, and says why', () => {
    expect(to(open(), 'example.com')).toBe('bad_address');
    const { why, rule } = decide(open([], ['8.8.0.0/16']), { address: '8.8.8.8', port: 1, protocol: 'tcp', names: [] });
    expect([rule, why]).toEqual(['8.8.0.0/16', 'the rule 8.8.0.0/16 denies it']);
  });
});

describe('decideName', () => {
  it('allows only names that a rule allows', () => {
    const policy = list('example.com', '*.pypi.org:8443', '1.1.1.1');
    expect(decideName(policy, 'Example.com.').allowed).toBe(true);
    expect(decideName(policy, 'files.pypi.org').allowed).toBe(true);
    expect(decideName(policy, 'secret.evil.test').reason).toBe('not_listed');
    expect(decideName(policy, 'metadata.google.internal').reason).toBe('metadata');
    expect(decideName(policy, 'a b').reason).toBe('bad_name');
    expect(decideName(parsePolicy({ mode: 'none' }), 'example.com').reason).toBe('mode_none');
  });
  it('open: allows all names but the denied; a deny rule for a port does not deny the name', () => {
    const policy = open([], ['evil.test', 'half.test:80']);
    expect(decideName(policy, 'example.com').allowed).toBe(true);
    expect(decideName(policy, 'evil.test').reason).toBe('denied');
    expect(decideName(policy, 'half.test').allowed).toBe(true);
  });
});

describe('decideAnswer', () => {
  it('refuses private and metadata answers, unless a block opens the private one', () => {
    const policy = list('example.com', '10.1.0.0/16:5432');
    expect(decideAnswer(policy, '1.1.1.1').allowed).toBe(true);
    expect(decideAnswer(policy, '10.1.0.1').allowed).toBe(true);
    expect(decideAnswer(policy, '10.2.0.1').reason).toBe('private');
    expect(decideAnswer(policy, '169.254.169.254').reason).toBe('metadata');
    expect(decideAnswer(policy, '::ffff:127.0.0.1').reason).toBe('private');
    expect(decideAnswer(open([], ['8.8.8.8']), '8.8.8.8').reason).toBe('denied');
  });
});

describe('decidesByName', () => {
  it('is true for an allowlist, and for open with a denied name', () => {
    expect(decidesByName(list('1.1.1.1'))).toBe(true);
    expect(decidesByName(open([], ['1.1.1.1']))).toBe(false);
    expect(decidesByName(open([], ['evil.test']))).toBe(true);
    expect(decidesByName(parsePolicy({ mode: 'none' }))).toBe(false);
  });
  it("pinnedPorts: those of the rules, without the gateway's", () => {
    const policy = list('db.test:5432-5433', '*.test:5433/udp', 'db.test:443', 'db.test');
    expect(pinnedPorts(policy, 'DB.test.')).toEqual([
      { protocol: 'tcp', port: 5432 },
      { protocol: 'tcp', port: 5433 },
      { protocol: 'udp', port: 5433 },
    ]);
    expect(pinnedPorts(policy, 'other')).toEqual([]);
  });
});
