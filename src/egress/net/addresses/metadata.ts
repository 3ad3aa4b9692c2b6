/**
 * Metadata services of clouds, which hand out credentials, and ranges that are not the internet. The only table for
 * packet filter, resolver, gateway and inference bridge. No policy can allow metadata services: deny beats allow.
 */
import {
  type Cidr,
  cidr,
  cidrContains,
  cidrCovers,
  facesOf,
  type IpAddress,
  parseAddress,
  readAddress,
} from './addresses.ts';

interface MetadataRow {
  readonly provider: string;
  readonly blocks: readonly Cidr[];
  /** Lower case, without a trailing dot. Subdomains are refused too. */
  readonly names: readonly string[];
  readonly source: string;
  /** True if `source` itself states the addresses; otherwise they come from programs that use them. */
  readonly confirmed: boolean;
}

const row = (
  provider: string,
  blocks: readonly string[],
  names: readonly string[],
  source: string,
  confirmed: boolean,
): MetadataRow => ({ provider, blocks: blocks.map(cidr), names, source, confirmed });

export const METADATA: readonly MetadataRow[] = [
  // No host beyond a router has a link-local address, so the whole range is refused: 169.254.169.254 (AWS, Azure,
  // Google, Oracle, OpenStack, DigitalOcean, Hetzner, Vultr, IBM), 169.254.170.2 (Amazon ECS), 169.254.170.23 (EKS),
  // 169.254.42.42 (Scaleway), 169.254.0.23 (Tencent), fe80::a9fe:a9fe (OpenStack).
  row('any, IPv4 link-local', ['169.254.0.0/16'], [], 'https://www.rfc-editor.org/rfc/rfc3927', true),
  row(
    'OpenStack and any, IPv6 link-local',
    ['fe80::/10'],
    [],
    'https://specs.openstack.org/openstack/neutron-specs/specs/ussuri/metadata-add-ipv6-support.html',
    true,
  ),
  // fd00:ec2::254 is the metadata service, ::23 EKS Pod Identity, ::253 DNS, ::123 time.
  row(
    'Amazon Web Services',
    ['fd00:ec2::/32'],
    ['instance-data', 'instance-data.ec2.internal'],
    'https://docs.aws.amazon.com/whitepapers/latest/ipv6-on-aws/supporting-amazon-vpc-services.html',
    true,
  ),
  row(
    'Google Cloud',
    ['fd20:ce::254'],
    ['metadata', 'metadata.google.internal', 'metadata.goog'],
    'https://cloud.google.com/compute/docs/metadata/querying-metadata',
    false,
  ),
  // WireServer has a public address outside of link-local.
  row(
    'Microsoft Azure',
    ['168.63.129.16'],
    ['metadata.azure.internal'],
    'https://learn.microsoft.com/en-us/azure/virtual-network/what-is-ip-address-168-63-129-16',
    true,
  ),
  row(
    'Alibaba Cloud',
    ['100.100.100.200', 'fd00:100::100:200'],
    [],
    'https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata/',
    true,
  ),
  row(
    'Oracle Cloud',
    ['fd00:c1::a9fe:a9fe', '192.0.0.192'],
    [],
    'https://docs.oracle.com/en-us/iaas/Content/Compute/Tasks/gettingmetadata.htm',
    false,
  ),
  row('Scaleway', ['fd00:42::42'], [], 'https://www.scaleway.com/en/developers/api/instance/user-data', true),
  row(
    'Akamai (Linode)',
    ['fd00:a9fe:a9fe::1'],
    [],
    'https://techdocs.akamai.com/cloud-computing/docs/metadata-service-api',
    true,
  ),
  row(
    'Tencent Cloud',
    [],
    ['metadata.tencentyun.com'],
    'https://www.tencentcloud.com/document/product/213/4934',
    false,
  ),
  row('IBM Cloud', [], ['api.metadata.cloud.ibm.com'], 'https://cloud.ibm.com/docs/vpc?topic=vpc-imd-about', false),
];

export const METADATA_BLOCKS: readonly Cidr[] = METADATA.flatMap(({ blocks }) => blocks);

/** The row of an address, or of an IPv4 address that it may lead to. @param address in any spelling */
export function metadataOf(address: string | IpAddress): MetadataRow | undefined {
  const read = typeof address === 'string' ? readAddress(address) : address;
  if (read === undefined) return undefined;
  const faces = facesOf(read);
  return METADATA.find(({ blocks }) => blocks.some((block) => faces.some((face) => cidrContains(block, face))));
}

/** @param name in any case, with or without trailing dots */
export function metadataOfName(name: string): MetadataRow | undefined {
  const plain = name.toLowerCase().replace(/\.+$/, '');
  return METADATA.find(({ names }) => names.some((known) => plain === known || plain.endsWith(`.${known}`)));
}

/** True if a block has only metadata addresses, so that allowing it has no effect. */
export function isMetadataBlock(block: Cidr): boolean {
  return METADATA_BLOCKS.some((known) => cidrCovers(known, block));
}

interface ReservedRange {
  readonly block: Cidr;
  readonly name: string;
}

const reserved = (text: string, name: string): ReservedRange => ({ block: cidr(text), name });

/**
 * Ranges outside of the public internet: RFC 6890 and the IANA special-purpose registries, with multicast (RFC 5771,
 * RFC 4291). A rule for a block inside one of them can open it.
 */
export const RESERVED: readonly ReservedRange[] = [
  reserved('0.0.0.0/8', 'this network'),
  reserved('10.0.0.0/8', 'private'),
  reserved('100.64.0.0/10', 'shared by carriers (CGNAT)'),
  reserved('127.0.0.0/8', 'loopback'),
  reserved('169.254.0.0/16', 'link-local'),
  reserved('172.16.0.0/12', 'private'),
  reserved('192.0.0.0/24', 'IETF protocols'),
  reserved('192.0.2.0/24', 'documentation'),
  reserved('192.88.99.0/24', '6to4 relays'),
  reserved('192.168.0.0/16', 'private'),
  reserved('198.18.0.0/15', 'benchmarks'),
  reserved('198.51.100.0/24', 'documentation'),
  reserved('203.0.113.0/24', 'documentation'),
  reserved('224.0.0.0/4', 'multicast'),
  reserved('240.0.0.0/4', 'reserved and broadcast'),
  reserved('::/128', 'unspecified'),
  reserved('::1/128', 'loopback'),
  reserved('64:ff9b:1::/48', 'local translation'),
  reserved('100::/64', 'discard'),
  reserved('2001::/23', 'IETF protocols'),
  reserved('2001:db8::/32', 'documentation'),
  reserved('3fff::/20', 'documentation'),
  reserved('5f00::/16', 'segment routing'),
  reserved('fc00::/7', 'unique local'),
  reserved('fe80::/10', 'link-local'),
  reserved('fec0::/10', 'site-local'),
  reserved('ff00::/8', 'multicast'),
];

/** The reserved range of the address, or of an IPv4 address that it may lead to. */
export function reservedRangeOf(address: string | IpAddress): ReservedRange | undefined {
  const read = typeof address === 'string' ? parseAddress(address) : address;
  if (read === undefined) return undefined;
  const faces = facesOf(read);
  return RESERVED.find(({ block }) => faces.some((face) => cidrContains(block, face)));
}
