/**
 * Expressions and commands of libnftables-json(5), as far as `ruleset.ts` needs them and only for our own table. Pure.
 */
import { type AddressRange, formatAddress } from '../addresses/addresses.ts';

export const TABLE_FAMILY = 'inet';
export const TABLE_NAME = 'neurovisor';

/** One command or listed object: `{ add: { rule: … } }`. */
export type NftObject = Readonly<Record<string, unknown>>;
export type NftExpression = Readonly<Record<string, unknown>>;
type NftKind = 'chain' | 'rule' | 'set' | 'map' | 'element' | 'counter' | 'quota';

const OURS = { family: TABLE_FAMILY, table: TABLE_NAME };

export function add(kind: NftKind, fields: NftObject): NftObject {
  return { add: { [kind]: { ...OURS, ...fields } } };
}

export function remove(kind: NftKind, fields: NftObject): NftObject {
  return { delete: { [kind]: { ...OURS, ...fields } } };
}

export function flush(kind: 'chain' | 'set', name: string): NftObject {
  return { flush: { [kind]: { ...OURS, name } } };
}

export function addTable(): NftObject {
  return { add: { table: { family: TABLE_FAMILY, name: TABLE_NAME } } };
}

export function deleteTable(): NftObject {
  return { delete: { table: { family: TABLE_FAMILY, name: TABLE_NAME } } };
}

export const ACCEPT: NftExpression = { accept: null };
export const DROP: NftExpression = { drop: null };
/** Makes the guest's program fail at once instead of waiting for a timeout. */
export const RESET: NftExpression = { reject: { type: 'tcp reset' } };
export const PROHIBITED: NftExpression = { reject: { type: 'icmpx', expr: 'admin-prohibited' } };

export const IIFNAME: NftExpression = { meta: { key: 'iifname' } };
export const OIFNAME: NftExpression = { meta: { key: 'oifname' } };
export const NFPROTO: NftExpression = { meta: { key: 'nfproto' } };
export const MARK: NftExpression = { meta: { key: 'mark' } };
export const L4PROTO: NftExpression = { meta: { key: 'l4proto' } };
export const CT_STATE: NftExpression = { ct: { key: 'state' } };
/** `original`: sent by the side that opened the connection; `reply`: by the other. */
export const CT_DIRECTION: NftExpression = { ct: { key: 'direction' } };
export const CT_STATUS: NftExpression = { ct: { key: 'status' } };
/** Zone of the original direction; replies are looked up in zone 0, as for the host's own connections. */
export const CT_ZONE: NftExpression = { ct: { key: 'zone', dir: 'original' } };
/** The destination's type in the host's routes: `local` is every address of the host itself. */
export const DESTINATION_ROUTE: NftExpression = { fib: { result: 'type', flags: ['daddr'] } };
export const SOURCE_ROUTE: NftExpression = { fib: { result: 'type', flags: ['saddr'] } };
export const ETHER_SADDR: NftExpression = { payload: { protocol: 'ether', field: 'saddr' } };
export const IP_SADDR: NftExpression = { payload: { protocol: 'ip', field: 'saddr' } };
export const IP_DADDR: NftExpression = { payload: { protocol: 'ip', field: 'daddr' } };
/**
 * The protocol in the IP header. `meta l4proto` fails in a set with ranges: nft 1.0.6 swaps its bytes in pairs, which
 * some kernels refuse for a single byte (seen with Linux 6.12.117).
 */
const IP_PROTOCOL: NftExpression = { payload: { protocol: 'ip', field: 'protocol' } };
export const DPORT: NftExpression = { payload: { protocol: 'th', field: 'dport' } };
/** The whole byte: equal to `rst` means `rst` and no other flag. */
export const TCP_FLAGS: NftExpression = { payload: { protocol: 'tcp', field: 'flags' } };
/** Includes the IP header. */
export const PACKET_BYTES: NftExpression = { meta: { key: 'length' } };
export const DESTINATION: NftExpression = { concat: [IP_DADDR, IP_PROTOCOL, DPORT] };
export const DESTINATION_TYPE: readonly string[] = ['ipv4_addr', 'inet_proto', 'inet_service'];

export function equal(left: NftExpression, right: unknown): NftExpression {
  return { match: { op: '==', left, right } };
}

export function notEqual(left: NftExpression, right: unknown): NftExpression {
  return { match: { op: '!=', left, right } };
}

export function hasBit(left: NftExpression, right: unknown): NftExpression {
  return { match: { op: 'in', left, right } };
}

export function atMost(left: NftExpression, right: number): NftExpression {
  return { match: { op: '<=', left, right } };
}

export function assign(key: NftExpression, value: number | string): NftExpression {
  return { mangle: { key, value } };
}

export function anyOf(elements: readonly unknown[]): NftExpression {
  return { set: elements };
}

export function addressElement({ family, first, last }: AddressRange): unknown {
  const from = formatAddress({ family, value: first });
  return first === last ? from : { range: [from, formatAddress({ family, value: last })] };
}

export function numberElement(first: number, last: number): unknown {
  return first === last ? first : { range: [first, last] };
}

export function dispatch(key: NftExpression, map: string): NftExpression {
  return { vmap: { key, data: `@${map}` } };
}

export function jumpTo(chain: string): NftExpression {
  return { jump: { target: chain } };
}

export function goTo(chain: string): NftExpression {
  return { goto: { target: chain } };
}

export function count(counter: string): NftExpression {
  return { counter };
}

/** A token bucket; matches packets beyond it. */
export function beyondRate(bytesPerSecond: number, burstBytes: number): NftExpression {
  const unit = { rate_unit: 'bytes', burst_unit: 'bytes', per: 'second' };
  return { limit: { rate: bytesPerSecond, burst: burstBytes, inv: true, ...unit } };
}

/** Likewise, in packets. */
export function beyondPackets(perSecond: number, burst: number): NftExpression {
  return { limit: { rate: perSecond, burst, inv: true, per: 'second' } };
}

/** Matches the first `bytes` of packets since the rule was added. */
export function within(bytes: number): NftExpression {
  return { quota: { val: bytes, val_unit: 'bytes' } };
}

export function beyondConnections(connections: number): NftExpression {
  return { 'ct count': { val: connections, inv: true } };
}
