/** The canary's DNS zone: all names resolve to the canary, except the special names of a run. Pure. */

import { METADATA_ADDRESSES } from '../../prove/map.ts';
import { DNS_CODE, DNS_TYPE, type DnsQuery, type DnsRecord, encodeReply } from '../../src/egress/net/dns/message.ts';

/**
 * Prefixes of the last label before the zone; the run id follows. All other names resolve to the canary, as does the
 * zone itself.
 */
export const CANARY_LABELS = {
  /** Allowed by the policies under test. */
  allowed: 'allowed',
  /** Not allowed, nor any name below it. */
  other: 'other',
  /** Allowed, with an unreachable address (RFC 5737): a connection to the canary under this name is forged. */
  elsewhere: 'elsewhere',
  /** Allowed, and resolves to a metadata service. */
  rebind: 'rebind',
  /** Allowed, and resolves to a private address. */
  private: 'private',
  /** Allowed, and resolves to the canary at the first query, then to a metadata service. */
  flip: 'flip',
} as const;

type CanaryLabel = (typeof CANARY_LABELS)[keyof typeof CANARY_LABELS];

/** @param run see `RUN_ID` */
export function runName(label: CanaryLabel, run: string, zone: string): string {
  return `${label}-${run}.${zone}`;
}

export const UNREACHABLE_ADDRESS = '192.0.2.1';
export const PRIVATE_ADDRESS = '10.0.0.1';
const TTL_SECONDS = 0;
const REPLY_BYTES_MAX = 1232;
/** RFC 1035 section 4.1.1, in the third byte: authoritative answer; in the fourth: recursion available. */
const AUTHORITATIVE = 0x04;
const RECURSION = 0x80;

/** @param times number of earlier queries for this name and type */
export function zoneReply(query: DnsQuery, zone: string, canaryAddress: string, times: number): Uint8Array {
  const { name, type } = query.question;
  const isOurs = name === zone || name.endsWith(`.${zone}`);
  const records: DnsRecord[] =
    isOurs && type === DNS_TYPE.A
      ? [{ type: 'A', name, ttlSeconds: TTL_SECONDS, address: zoneAddress(name, zone, canaryAddress, times) }]
      : [];
  const code = isOurs ? DNS_CODE.ok : DNS_CODE.refused;
  const reply = encodeReply(query, { code, records }, REPLY_BYTES_MAX);
  reply[2] = (reply[2] ?? 0) | (isOurs ? AUTHORITATIVE : 0);
  reply[3] = (reply[3] ?? 0) & ~RECURSION;
  return reply;
}

function zoneAddress(name: string, zone: string, canaryAddress: string, times: number): string {
  const [metadata] = METADATA_ADDRESSES;
  switch (/^([a-z]+)-[0-9a-f]{20}$/.exec(name.slice(0, -zone.length - 1))?.[1]) {
    case CANARY_LABELS.elsewhere:
      return UNREACHABLE_ADDRESS;
    case CANARY_LABELS.rebind:
      return metadata;
    case CANARY_LABELS.private:
      return PRIVATE_ADDRESS;
    case CANARY_LABELS.flip:
      return times === 0 ? canaryAddress : metadata;
    default:
      return canaryAddress;
  }
}
