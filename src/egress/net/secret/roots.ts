/** The root certificates for verifying hosts with secrets (io). */
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import { HOSTILE_SERVER_TLS } from '../../../base/hostile-tls.ts';

let context: SecureContext | undefined;

/**
 * The roots of this machine, or Node's if it has none, and those of `NODE_EXTRA_CA_CERTS`, for a private CA. Read once.
 */
export function machineRoots(): SecureContext {
  context ??= createSecureContext({ ...HOSTILE_SERVER_TLS, ca: certificates() });
  return context;
}

function certificates(): string[] {
  const system = getCACertificates('system');
  const known = system.length > 0 ? system : getCACertificates('bundled');
  return [...known, ...getCACertificates('extra')];
}
