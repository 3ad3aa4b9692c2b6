/** Converts E2B's network settings to ours. Pure. */
import { EGRESS_LIMITS } from '../../../base/request/egress-limits.ts';
import type { NetworkOptions } from '../../../sandbox/contract/network-spec.ts';
import { type Block, blockText, isWithin, parseBlock, without } from '../../tenants/blocks.ts';
import { E2bError } from '../errors.ts';
import { requestHeadersOf } from './rules.ts';
import type { NetworkBody } from './schema.ts';

const ALL = '0.0.0.0/0';
const ADDRESSES = /^[\d./:a-f]+$/i;

type Lists = Pick<NetworkBody, 'allowOut' | 'denyOut' | 'rules' | 'egressProxy' | 'dnsServers'>;

/**
 * In E2B an allowed destination overrides a denied one, so here the allowed ones are removed from the denied. Metadata
 * services stay closed, whatever is allowed (R-NET-6), and so do private ranges to a tenant whose operator has not opened
 * them (`tenants/ceiling.ts`).
 * @returns `null` for no network card
 * @throws E2bError 400
 */
export function networkOptions(lists: Lists | null | undefined, allowInternetAccess: boolean): NetworkOptions | null {
  refuseUnsupported(lists ?? {});
  const allowOut = lists?.allowOut ?? [];
  const denyOut = lists?.denyOut ?? [];
  const isClosed = !allowInternetAccess || denyOut.includes(ALL);
  const name = allowOut.find((one) => !ADDRESSES.test(one));
  if (name !== undefined && !isClosed) {
    throw new E2bError(400, `allowOut: the name ${name} needs ${ALL} in denyOut`);
  }
  const wrong = denyOut.find((one) => !ADDRESSES.test(one));
  if (wrong !== undefined) throw new E2bError(400, `denyOut: ${wrong} is not an address or a block`);
  if (allowOut.includes(ALL)) return { mode: 'open', allow: [], deny: [] };
  if (isClosed && allowOut.length === 0) return null;
  if (isClosed) return { mode: 'allowlist', allow: allowOut, deny: [] };
  return { mode: 'open', allow: [], deny: denyWithout(denyOut, allowOut) };
}

/**
 * True if a client has rules for egress, so that a host without network cards must refuse. Only asking for the internet
 * does not count, since clients ask for it whether or not their program needs it.
 */
export function hasRules(lists: Pick<Lists, 'allowOut' | 'denyOut' | 'rules'> | null | undefined): boolean {
  const { allowOut, denyOut, rules } = lists ?? {};
  const isListed = (allowOut ?? []).length > 0 || (denyOut ?? []).length > 0;
  return isListed || requestHeadersOf(rules).length > 0;
}

/**
 * Denied blocks without the allowed ones. Each allowed address may split a block into 31, so the result is bounded
 * while it grows: otherwise one request would keep the daemon busy for a minute.
 * @throws E2bError 400
 */
function denyWithout(deny: readonly string[], allow: readonly string[]): readonly string[] {
  const { rulesMax } = EGRESS_LIMITS;
  // Larger ones first, since they leave less to split.
  const holes = allow
    .map(parseBlock)
    .filter((block) => block !== null)
    .toSorted((a, b) => a.bits - b.bits);
  const kept = new Set<string>();
  const split = new Set<string>();
  for (const text of deny) {
    const block = parseBlock(text);
    const own = holes.filter((hole) => block !== null && (isWithin(hole, block) || isWithin(block, hole)));
    if (block === null || own.length === 0) {
      if (!allow.includes(text)) kept.add(text);
    } else if (!split.has(blockText(block))) {
      split.add(blockText(block));
      let left: readonly Block[] = [block];
      for (const hole of own) {
        left = left.flatMap((one) => without(one, hole));
        // Each further hole removes at most one block.
        if (left.length > rulesMax + own.length) throw tooManyRules();
      }
      for (const one of left) kept.add(blockText(one));
    }
    if (kept.size > rulesMax) throw tooManyRules();
  }
  return [...kept];
}

const tooManyRules = (): E2bError =>
  new E2bError(400, 'allowOut, denyOut: the allowed addresses split the denied blocks too often', {
    remedy: `use fewer or larger blocks: at most ${EGRESS_LIMITS.rulesMax} may remain denied`,
  });

function refuseUnsupported({ egressProxy, dnsServers }: Lists): void {
  if (egressProxy !== undefined && egressProxy !== null) {
    throw new E2bError(400, 'egressProxy: not supported, since only TCP 80 and 443 could be led through a proxy');
  }
  // Includes an empty list, which closes DNS at E2B.
  if (dnsServers !== undefined && dnsServers !== null) {
    throw new E2bError(
      400,
      'dnsServers: the resolver of the host answers each query of a sandbox, whatever server it is sent to',
      { remedy: 'omit dnsServers: names of allowOut are resolved' },
    );
  }
}
