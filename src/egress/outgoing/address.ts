/** Decides which addresses this host connects to for a guest or a caller. Pure, except `ownAddresses`. */
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { readAddress } from '../net/addresses/addresses.ts';
import { reservedRangeOf } from '../net/addresses/metadata.ts';
import { decide, type EgressDecision, type EgressRule } from '../net/policy/policy.ts';

export interface ResolvedAddress {
  readonly address: string;
  /** 4 or 6. */
  readonly family: number;
}

/** Returns why no connection to the address is allowed; undefined if it is. */
export type AddressJudge = (address: string) => string | undefined;

/**
 * Decides whether the host may connect to `url` at an address: any public one except the host's own. If the owner
 * named the host, any except a metadata service.
 * @param hosts `HOST` or `HOST:PORT`
 * @param own addresses of the host
 */
export function decideAddress(
  url: URL,
  address: string,
  hosts: readonly string[],
  own: readonly string[] = ownAddresses(),
): EgressDecision {
  const host = hostOf(url);
  const isNamed = hosts.some((text) => names(text, url));
  return decide(
    { mode: 'open', allow: isNamed ? ruleOf(address) : [], deny: isNamed ? [] : own.flatMap(ruleOf) },
    { address, port: portOf(url), protocol: 'tcp', names: isIP(host) === 0 ? [host] : [] },
  );
}

/** @throws Error with the reason of the first address if none of them is allowed */
export function allowedOf(found: readonly ResolvedAddress[], judge: AddressJudge): readonly ResolvedAddress[] {
  const judged = found.map((target) => ({ target, refusal: judge(target.address) }));
  const allowed = judged.filter(({ refusal }) => refusal === undefined);
  if (allowed.length === 0) throw new Error(judged[0]?.refusal ?? 'the name has no address');
  return allowed.map(({ target }) => target);
}

/** The host of a URL without the brackets of IPv6 and the root's dot. */
export const hostOf = ({ hostname }: URL): string => hostname.replace(/^\[(.*)\]$|\.$/, '$1');

/** Public addresses of this host; the others are refused as private. */
function ownAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((all = []) => all.map(({ address }) => address))
    .filter((address) => reservedRangeOf(address) === undefined);
}

function names(text: string, url: URL): boolean {
  const [, host = '', port] = /^(.*?)(?::(\d+))?$/.exec(text) ?? [];
  const named = URL.parse(`http://${host}/`);
  if (named === null || hostOf(named) !== hostOf(url)) return false;
  return port === undefined || Number(port) === portOf(url);
}

/** The rule for exactly this address; none if it is not an address. */
function ruleOf(text: string): EgressRule[] {
  const address = readAddress(text);
  if (address === undefined) return [];
  const { family, value: base } = address;
  const block = { family, base, prefix: family === 4 ? 32 : 128 };
  return [{ kind: 'block', text, block, ports: undefined, protocol: undefined }];
}

const portOf = ({ port, protocol }: URL): number => Number(port) || (protocol === 'https:' ? 443 : 80);
