/** Why there is no answer from a sandbox. E2B's clients look for these sentences. */
import type { ServerResponse } from 'node:http';
import { describeError } from '../../base/errors.ts';

export interface ProxyRefusal {
  readonly status: number;
  readonly body: Readonly<Record<string, string | number>>;
}

export const notFound = (id: string): ProxyRefusal => ({
  status: 502,
  body: { sandboxId: id, message: 'The sandbox was not found', code: 502 },
});

export const portClosed = (id: string, port: number): ProxyRefusal => ({
  status: 502,
  body: { sandboxId: id, message: 'The sandbox is running but port is not open', port, code: 502 },
});

export const tokenNeeded = (id: string): ProxyRefusal => ({
  status: 403,
  body: {
    sandboxId: id,
    message: 'The header E2B-Traffic-Access-Token is missing or not valid',
    code: 403,
  },
});

export function refusalOf(error: unknown, id: string, port: number): ProxyRefusal {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'not_found' && error instanceof Error && error.name === 'GuestError') {
    return portClosed(id, port);
  }
  if (code === 'not_found' || code === 'gone' || code === 'not_ready') return notFound(id);
  return { status: 502, body: { sandboxId: id, message: describeError(error), port, code: 502 } };
}

export function sendRefusal(response: ServerResponse, { status, body }: ProxyRefusal): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}
