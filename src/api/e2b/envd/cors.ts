/**
 * Lets web pages of any origin use envd, as at E2B. This weakens nothing: a call needs the sandbox's token or a
 * signature, which browsers do not add automatically, and the only call that needs neither (`GET /health` of an id)
 * says only that the sandbox runs.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';

const ORIGIN = { 'access-control-allow-origin': '*' };
const EXPOSED = 'Content-Range, Last-Modified, Content-Encoding, Connect-Content-Encoding';
const PREFLIGHT = {
  ...ORIGIN,
  'access-control-allow-methods': 'GET, HEAD, POST',
  // `*` does not include Authorization (Fetch standard).
  'access-control-allow-headers': '*, Authorization',
  'access-control-max-age': '7200',
  'content-length': '0',
};
const PATHS = /^\/(process\.Process\/|filesystem\.Filesystem\/|files$|health$)/;

export function allowPages(response: ServerResponse): void {
  response.setHeader('access-control-allow-origin', '*');
  response.setHeader('access-control-expose-headers', EXPOSED);
}

/** A preflight has no headers of ours, so only its path shows that it is for envd. */
export function answersPreflight(request: IncomingMessage, response: ServerResponse): boolean {
  const [path = ''] = (request.url ?? '').split('?', 1);
  const isPreflight =
    request.method === 'OPTIONS' && request.headers['access-control-request-method'] !== undefined && PATHS.test(path);
  if (isPreflight) response.writeHead(204, PREFLIGHT).end();
  return isPreflight;
}
