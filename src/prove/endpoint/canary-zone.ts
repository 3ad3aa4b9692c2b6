/** What the canary's names lead to. Pure: a zone in which all names lead to the canary, but for a few. */
import {
  DNS_CODE,
  DNS_TYPE,
  type DnsQuery,
  type DnsRecord,
  encodeReply,
} from '../../net/dns/message.ts';
import { METADATA_ADDRESSES } from '../map.ts';

/**
 * What the last label before the zone may begin with; each run has its own. Any other name leads to the
 * canary, and so does the zone itself.
 */
export const CANARY_LABELS = {
  /** What the policies under test allow. */
  allowed: 'allowed',
  /** What they don't; it and all names below it. */
  other: 'other',
  /** Allowed, and leads to nobody (RFC 5737): who connects to the canary under this name has forged it. */
  elsewhere: 'elsewhere',
  /** Allowed, and leads to a metadata service, or to a private address. */
  rebind: 'rebind',
  private: 'private',
  /** Allowed, and leads to the canary the first time it is asked for, then to a metadata service. */
  flip: 'flip',
} as const;

type CanaryLabel = (typeof CANARY_LABELS)[keyof typeof CANARY_LABELS];

/** @param run see `RUN_ID` */
export function runName(label: CanaryLabel, run: string, zone: string): string {
  return `${label}-${run}.${zone}`;
}

export const NOBODY = '192.0.2.1';
export const PRIVATE = '10.0.0.1';
const TTL_SECONDS = 0;
const REPLY_BYTES_MAX = 1232;
/** RFC 1035 section 4.1.1, in the third byte: authoritative answer; in the fourth: recursion available. */
const AUTHORITATIVE = 0x04;
const RECURSION = 0x80;

/** @param times that this name was asked for before */
export function zoneReply(
  query: DnsQuery,
  zone: string,
  canaryAddress: string,
  times: number,
): Uint8Array {
  const { name, type } = query.question;
  const isOurs = name === zone || name.endsWith(`.${zone}`);
  const records: DnsRecord[] =
    isOurs && type === DNS_TYPE.A
      ? [
          {
            type: 'A',
            name,
            ttlSeconds: TTL_SECONDS,
            address: zoneAddress(name, zone, canaryAddress, times),
          },
        ]
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
      return NOBODY;
    case CANARY_LABELS.rebind:
      return metadata;
    case CANARY_LABELS.private:
      return PRIVATE;
    case CANARY_LABELS.flip:
      return times === 0 ? canaryAddress : metadata;
    default:
      return canaryAddress;
  }
}
