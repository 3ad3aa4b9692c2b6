/**
 * Decides which part of the interface a request is for. One port serves everything, since the paths of E2B's interfaces
 * do not collide:
 *
 *     Host: PORT-ID.DOMAIN                       a port of the sandbox
 *     E2b-Sandbox-Id, E2b-Sandbox-Port           the same, at any other host
 *     /files?…&signature=…                       a file of the sandbox whose token made the signature
 *     /v1/…, /metrics                            our own REST interface
 *     everything else                            the control plane
 */
import type { IncomingHttpHeaders } from 'node:http';

export const ENVD_PORT = 49_983;
export const INTERPRETER_PORT = 49_999;
/** Uploads of template files to the control plane; the URL itself is the permission. */
export const UPLOADS_PATH = '/template-uploads';

export type Target =
  | { readonly kind: 'sandbox'; readonly id: string; readonly port: number }
  | { readonly kind: 'signed' }
  | { readonly kind: 'own' }
  | { readonly kind: 'control' };

const LABEL = /^(\d{1,5})-([a-z0-9]{1,64})\./;
const PORT_MAX = 65_535;

export function targetOf(request: {
  readonly headers: IncomingHttpHeaders;
  readonly url?: string | undefined;
}): Target {
  const { headers, url = '/' } = request;
  const named = LABEL.exec((headers.host ?? '').toLowerCase());
  if (named !== null) return sandboxTarget(named[2] ?? '', named[1] ?? '');
  const { 'e2b-sandbox-id': id, 'e2b-sandbox-port': port = String(ENVD_PORT) } = headers;
  if (typeof id === 'string' && typeof port === 'string') return sandboxTarget(id, port);
  const [path = '', query = ''] = url.split('?', 2);
  if (path === '/files' && new URLSearchParams(query).has('signature')) return { kind: 'signed' };
  if (path.startsWith('/v1/') || path === '/metrics') return { kind: 'own' };
  return { kind: 'control' };
}

function sandboxTarget(id: string, port: string): Target {
  const number = /^\d{1,5}$/.test(port) ? Number(port) : 0;
  const isValid = number >= 1 && number <= PORT_MAX;
  // Port 0 is open nowhere, and the answer says so.
  return { kind: 'sandbox', id, port: isValid ? number : 0 };
}
