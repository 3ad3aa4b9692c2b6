/** Answers to a guest whose connection is refused, in its protocol. Pure. */

/** A fatal alert, access_denied (RFC 8446 section 6.2), unencrypted, since there are no keys yet. */
export function tlsRefusal(): Uint8Array {
  return Uint8Array.of(21, 3, 3, 0, 2, 2, 49);
}

const STATUS_TEXT = {
  400: 'Bad Request',
  403: 'Forbidden',
  408: 'Request Timeout',
  421: 'Misdirected Request',
  502: 'Bad Gateway',
} as const;
export type RefusalStatus = keyof typeof STATUS_TEXT;

/** A whole response, after which the connection ends. */
export function httpRefusal(status: RefusalStatus, code: string, message: string): Uint8Array {
  const body = Buffer.from(`${JSON.stringify({ error: { code, message } })}\n`);
  const head = [
    `HTTP/1.1 ${status} ${STATUS_TEXT[status]}`,
    'Content-Type: application/json',
    `Content-Length: ${body.length}`,
    'Cache-Control: no-store',
    'Connection: close',
  ];
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), body]);
}
