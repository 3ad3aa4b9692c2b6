/**
 * The addresses in the world of the proofs. All of it is inside namespaces made for it, so real public addresses can
 * stand for themselves.
 *
 *     guest ── nv-…   ┐
 *     other ── nv-…   ├ host ── up0 198.18.0.1 ──── 198.18.0.2 internet: resolver, web, metadata services
 *     plain ── plain0 ┘   10.202.0.1: an ordinary TAP without a packet filter, for the positive controls
 */
import { metadataOf } from '../src/egress/net/addresses/metadata.ts';

/** Prefix of the directory for the files of a run. */
export const DIR_PREFIX = 'nv-prove-';

export const HOST_UPLINK = '198.18.0.1';
/** The internet's side of the uplink, and the host's resolver. */
export const UPSTREAM = '198.18.0.2';
export const UPLINK_PREFIX = 24;
export const POOL = '10.201.0.0/16';
export const PLAIN_POOL = '10.202.0.0/30';
export const PLAIN = { host: '10.202.0.1', guest: '10.202.0.2', mac: 'aa:fc:00:00:00:99' } as const;

/** AWS and most others, Azure, Alibaba, Oracle, ECS, EKS, Scaleway, Tencent: see `METADATA`. */
export const METADATA_ADDRESSES = [
  '169.254.169.254',
  '168.63.129.16',
  '100.100.100.200',
  '192.0.0.192',
  '169.254.170.2',
  '169.254.42.42',
  '169.254.0.23',
] as const;
/** An address of the host itself, like the agent of EKS Pod Identity. */
export const HOST_AGENT = '169.254.170.23';
/** A public address of the host itself, with a name that a rule allows. */
export const HOST_PUBLIC = { name: 'host.example', address: '93.184.216.77' } as const;
export const SECRET = 'secret of the metadata service';

export const ALLOWED = { name: 'allowed.example', address: '93.184.216.34' } as const;
export const OTHER = { name: 'other.example', address: '93.184.216.99' } as const;
/** Speaks HTTPS with a certificate, and echoes requests. */
export const VAULT = { name: 'vault.example', address: '93.184.216.43' } as const;
/** Opened by a rule for addresses: TCP 8080 and UDP 9999. */
export const LISTED_ADDRESS = '1.1.1.1';
export const FOREIGN_RESOLVER = '8.8.8.8';
export const PRIVATE_ADDRESSES = ['10.50.0.1', '192.168.77.1'] as const;

export const INTERNET_ADDRESSES: readonly string[] = [
  ...METADATA_ADDRESSES,
  ...PRIVATE_ADDRESSES,
  ALLOWED.address,
  OTHER.address,
  VAULT.address,
  LISTED_ADDRESS,
  FOREIGN_RESOLVER,
];
export const RESOLVERS: readonly string[] = [UPSTREAM, FOREIGN_RESOLVER];
export const UDP_ADDRESSES: readonly string[] = [LISTED_ADDRESS, OTHER.address, ALLOWED.address, '169.254.169.254'];

/** Name → the answer to the first query, the second, and so on; a name in it is an alias. */
export const ZONE: Readonly<Record<string, readonly (readonly string[])[]>> = {
  [ALLOWED.name]: [[ALLOWED.address]],
  [OTHER.name]: [[OTHER.address]],
  [VAULT.name]: [[VAULT.address]],
  'rebind.example': [['169.254.169.254']],
  'mixed.example': [[ALLOWED.address, '169.254.169.254']],
  'alias.example': [['evil.test']],
  'evil.test': [['169.254.169.254']],
  'cloud.example': [['metadata.google.internal']],
  'metadata.google.internal': [['169.254.169.254']],
  'flip.example': [[ALLOWED.address], ['169.254.169.254']],
  [HOST_PUBLIC.name]: [[HOST_PUBLIC.address]],
  'private.example': [[PRIVATE_ADDRESSES[0]]],
  '*': [[OTHER.address]],
};

export const PSK = 'a key of the proofs, and no secret';

export interface Arrival {
  readonly protocol: 'tcp' | 'udp' | 'http' | 'tls' | 'dns';
  readonly to: string;
  readonly port: number;
  /** Request line (for TLS with its fields), server name, question or datagram. */
  readonly text: string;
}

export const isMetadataAddress = (address: string): boolean => metadataOf(address) !== undefined;
