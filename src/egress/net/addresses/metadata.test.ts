import { describe, expect, it } from 'vitest';
import { cidr } from './addresses.ts';
import { isMetadataBlock, METADATA, metadataOf, metadataOfName, RESERVED, reservedRangeOf } from './metadata.ts';

describe('metadataOf', () => {
  it.each([
    ['169.254.169.254', 'any, IPv4 link-local'],
    ['169.254.169.253', 'any, IPv4 link-local'],
    ['169.254.170.2', 'any, IPv4 link-local'],
    ['169.254.170.23', 'any, IPv4 link-local'],
    ['169.254.0.23', 'any, IPv4 link-local'],
    ['169.254.42.42', 'any, IPv4 link-local'],
    ['168.63.129.16', 'Microsoft Azure'],
    ['100.100.100.200', 'Alibaba Cloud'],
    ['fd00:100::100:200', 'Alibaba Cloud'],
    ['192.0.0.192', 'Oracle Cloud'],
    ['fd00:c1::a9fe:a9fe', 'Oracle Cloud'],
    ['fd00:ec2::254', 'Amazon Web Services'],
    ['fd00:ec2::23', 'Amazon Web Services'],
    ['fd20:ce::254', 'Google Cloud'],
    ['fd00:42::42', 'Scaleway'],
    ['fd00:a9fe:a9fe::1', 'Akamai (Linode)'],
    ['fe80::a9fe:a9fe', 'OpenStack and any, IPv6 link-local'],
    ['::ffff:168.63.129.16', 'Microsoft Azure'],
    ['64:ff9b::a83f:8110', 'Microsoft Azure'],
    ['2002:a83f:8110::', 'Microsoft Azure'],
    ['2822734096', 'Microsoft Azure'],
    ['0x64.0x64.0144.200', 'Alibaba Cloud'],
  ])('%s belongs to %s', (address, provider) => {
    expect(metadataOf(address)?.provider).toBe(provider);
  });
  it.each(['168.63.129.15', '100.100.100.201', '1.1.1.1', 'fd00:ec3::254', 'no', ''])(
    '%j is no metadata address',
    (address) => {
      expect(metadataOf(address)).toBeUndefined();
    },
  );
});

describe('metadataOfName', () => {
  it.each([
    'metadata.google.internal',
    'METADATA.google.internal.',
    'metadata.google.internal..',
    'a.metadata.google.internal',
    'metadata',
    'instance-data',
    'metadata.tencentyun.com',
  ])('%s is a metadata name', (name) => {
    expect(metadataOfName(name)).toBeDefined();
  });
  it.each(['google.internal', 'mymetadata.goog', 'metadata.example.com', ''])('%j is no metadata name', (name) => {
    expect(metadataOfName(name)).toBeUndefined();
  });
});

describe('the tables', () => {
  it('METADATA: each row has a provider and a source', () => {
    for (const { provider, source, blocks, names } of METADATA) {
      expect(provider).not.toBe('');
      expect(source).toMatch(/^https:\/\//);
      expect(blocks.length + names.length).toBeGreaterThan(0);
    }
  });
  it('isMetadataBlock: a block around a metadata address is not a metadata block', () => {
    expect(isMetadataBlock(cidr('169.254.169.254/32'))).toBe(true);
    expect(isMetadataBlock(cidr('168.63.0.0/16'))).toBe(false);
  });
  it('reservedRangeOf: knows reserved ranges by every face of an address', () => {
    expect(reservedRangeOf('10.1.2.3')?.name).toBe('private');
    expect(reservedRangeOf('64:ff9b::7f00:1')?.name).toBe('loopback');
    expect(reservedRangeOf('255.255.255.255')?.name).toBe('reserved and broadcast');
    expect(reservedRangeOf('8.8.8.8')).toBeUndefined();
    expect(new Set(RESERVED.map(({ block }) => JSON.stringify(String(block.base)))).size).toBe(
      RESERVED.length - 1, // 0.0.0.0 and :: have the same number.
    );
  });
});
