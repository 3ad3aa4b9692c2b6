/** By which certificates the hosts that secrets belong to are known (io: the certificates of this machine). */
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls';

let context: SecureContext | undefined;

/**
 * What this machine trusts, or what Node brings where that is nothing; and those of `NODE_EXTRA_CA_CERTS`, for
 * a certificate authority of one's own. Read once.
 */
export function machineRoots(): SecureContext {
  context ??= createSecureContext({ ca: certificates(), minVersion: 'TLSv1.2' });
  return context;
}

function certificates(): string[] {
  const system = getCACertificates('system');
  const known = system.length > 0 ? system : getCACertificates('bundled');
  return [...known, ...getCACertificates('extra')];
}
