/** Answers in place of a sandbox: E2B's sentences, which its clients search for, or a page for browsers. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { describeError } from '../../../base/errors.ts';
import { BusyError } from '../../../sandbox/contract/errors.ts';
import { isGuestError } from '../../rest/errors.ts';
import { TRAFFIC_LIMITS } from './limits.ts';

export interface ProxyRefusal {
  readonly status: number;
  readonly body: Readonly<Record<string, string | number>> & { readonly message: string };
  readonly remedy?: string;
}

export const notFound = (id: string): ProxyRefusal => ({
  status: 502,
  body: { sandboxId: id, message: 'The sandbox was not found', code: 502 },
  remedy: 'It may have ended, or be paused without automatic resume.',
});

export const portClosed = (id: string, port: number): ProxyRefusal => ({
  status: 502,
  body: { sandboxId: id, message: 'The sandbox is running but port is not open', port, code: 502 },
  remedy: `Start a server at port ${port} in the sandbox; 0.0.0.0, 127.0.0.1 and ::1 all are reached.`,
});

export const notHttp = (id: string, port: number, why: string): ProxyRefusal => ({
  status: 502,
  body: { sandboxId: id, message: `The program at the port did not answer in HTTP: ${why}`, port, code: 502 },
  remedy: 'The program must speak HTTP/1.1, without TLS unless its port is one of httpsPorts.',
});

const TOKEN = 'e2b-traffic-access-token';

export const tokenNeeded = (id: string, isGiven: boolean): ProxyRefusal => ({
  status: 403,
  body: {
    sandboxId: id,
    message: isGiven
      ? `Sandbox is secured with traffic access token. Provided token in header '${TOKEN}' is invalid`
      : `Sandbox is secured with traffic access token. Token header '${TOKEN}' is missing`,
    code: 403,
  },
  remedy: 'Send the trafficAccessToken of the sandbox in this header.',
});

export const badRequest = (id: string, message: string): ProxyRefusal => ({
  status: 400,
  body: { sandboxId: id, message, code: 400 },
});

const tooMany = (id: string): ProxyRefusal => {
  const limit = TRAFFIC_LIMITS.exchangesPerSandboxMax;
  return {
    status: 429,
    body: {
      sandboxId: id,
      message: `The sandbox has too many concurrent incoming connections (limit: ${limit})`,
      code: 429,
      connectionLimit: limit,
    },
  };
};

export function refusalOf(error: unknown, id: string, port: number): ProxyRefusal {
  if (error instanceof BusyError) return tooMany(id);
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'not_found' && isGuestError(error)) return portClosed(id, port);
  if (code === 'not_found' || code === 'gone' || code === 'not_ready') return notFound(id);
  return { status: 502, body: { sandboxId: id, message: describeError(error), port, code: 502 } };
}

export function sendRefusal(request: IncomingMessage, response: ServerResponse, refusal: ProxyRefusal): void {
  const isPage = (request.headers.accept ?? '').toLowerCase().includes('text/html');
  const text = isPage ? page(refusal) : JSON.stringify(refusal.body);
  response.writeHead(refusal.status, {
    'content-type': isPage ? 'text/html; charset=utf-8' : 'application/json',
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    ...(isPage && { 'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'" }),
    // Python's client would repeat the request otherwise.
    ...(refusal.status === 429 && { 'should-retry': 'true', 'retry-after': '1' }),
  });
  response.end(text);
}

function page({ status, body, remedy = '' }: ProxyRefusal): string {
  const facts = Object.entries(body)
    .filter(([name]) => name !== 'message' && name !== 'code')
    .map(([name, value]) => `<li>${escaped(name)}: <code>${escaped(String(value))}</code></li>`);
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${status}: ${escaped(body.message)}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:4rem auto;max-width:40rem;padding:0 1rem}</style></head>
<body><h1>${escaped(body.message)}</h1><p>${escaped(remedy)}</p><ul>${facts.join('')}</ul></body></html>
`;
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};
const escaped = (text: string): string => text.slice(0, 1024).replace(/[&<>"']/g, (one) => ENTITIES[one] ?? '');
