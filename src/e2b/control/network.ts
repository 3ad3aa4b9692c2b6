/** E2B's network settings as ours. */
import type { NetworkOptions } from '../../sandbox/spec.ts';
import { E2bError } from '../errors.ts';
import type { E2bNetwork } from '../kept.ts';

const ALL = '0.0.0.0/0';
const ADDRESSES = /^[\d./:a-f]+$/i;

/**
 * In E2B an allowed destination wins over a denied one; here the allowed are taken out of the denied. Metadata services
 * and private ranges stay closed, whatever is allowed (R-NET-6).
 * @returns null: no network card
 * @throws E2bError 400
 */
export function networkOptions(
  network: E2bNetwork | undefined,
  allowInternetAccess: boolean,
): NetworkOptions | null {
  const { allowOut = [], denyOut = [] } = network ?? {};
  const isClosed = !allowInternetAccess || denyOut.includes(ALL);
  const name = allowOut.find((one) => !ADDRESSES.test(one));
  if (name !== undefined && !isClosed) {
    throw new E2bError(400, `allowOut: the name ${name} needs ${ALL} in denyOut`);
  }
  const wrong = denyOut.find((one) => !ADDRESSES.test(one));
  if (wrong !== undefined)
    throw new E2bError(400, `denyOut: ${wrong} is not an address or a block`);
  if (isClosed && allowOut.length === 0) return null;
  if (isClosed) return { mode: 'allowlist', allow: allowOut, deny: [] };
  return { mode: 'open', allow: [], deny: denyOut.filter((one) => !allowOut.includes(one)) };
}
