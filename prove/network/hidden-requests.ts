/** Requests for another path or method than a rule allows, open or hidden. Pure. */

interface HiddenRequest {
  readonly what: string;
  /** Sent at once. */
  readonly text: string;
}

/** The method that the rule allows. */
export const RULE_METHOD = 'GET';
export const BODY_METHOD = 'PUT';
export const RULE_PATH = '/v1/';

/** Some servers read each of them as `/admin…`, which the rule does not allow. */
const PATHS: readonly (readonly [string, string])[] = [
  ['another path', '/ADMIN'],
  ['a path that only begins alike', '/v1ADMIN'],
  ['the folder without its slash', '/v1?ADMIN'],
  ['/../', '/v1/../ADMIN'],
  ['/./ and /../', '/v1/././../ADMIN'],
  ['%2e%2e', '/v1/%2e%2e/ADMIN'],
  ['.%2E', '/v1/.%2E/ADMIN'],
  ['%2f', '/v1/..%2fADMIN'],
  ['%5c', '/v1/..%5cADMIN'],
  ['a backslash', '/v1/..\\ADMIN'],
  ['encoded twice', '/v1/%252e%252e/ADMIN'],
  ['overlong UTF-8', '/v1/%c0%ae%c0%ae/ADMIN'],
  ['fullwidth dots', '/v1/%EF%BC%8E%EF%BC%8E/ADMIN'],
  ['a joiner between dots', '/v1/.%E2%80%8B./ADMIN'],
  ['dots and a space', '/v1/..%20/ADMIN'],
  ['dots and a parameter', '/v1/..;x=1/ADMIN'],
  ['//', '/v1//../ADMIN'],
  ['// first', '//v1/ADMIN'],
  ['a NUL', '/v1/%00/../ADMIN'],
  ['%u002e', '/v1/%u002e%u002e/ADMIN'],
  ['a letter encoded', '/%761/ADMIN'],
  ['a tab in it', '/v1/\t/../ADMIN'],
];

const FIELDS: readonly (readonly [string, string])[] = [
  ['X-Original-URL', 'X-Original-URL: /ADMIN'],
  ['X-Rewrite-URL', 'X-Rewrite-Url: /ADMIN'],
  ['X-HTTP-Method-Override', 'X-HTTP-Method-Override: DELETE'],
  ['the same with underscores', 'X_HTTP_Method_Override: DELETE'],
  ['X-Forwarded-Prefix', 'X-Forwarded-Prefix: /ADMIN'],
  ['X-Forwarded-Host', 'X-Forwarded-Host: other.example'],
];

/** @param mark appears in the request line of an arrival */
export function hiddenRequests(
  scheme: 'http' | 'https',
  host: string,
  mark: (index: number) => string,
): HiddenRequest[] {
  type Make = (mark: string) => string;
  const list: (readonly [string, Make])[] = [
    ...PATHS.map(([what, path]): readonly [string, Make] => [
      `path: ${what}`,
      (own) => ask(host, RULE_METHOD, path.replace('ADMIN', `admin-${own}`)),
    ]),
    ...FIELDS.map(([what, field]): readonly [string, Make] => [
      `field: ${what}`,
      (own) => ask(host, RULE_METHOD, `/v1/${own}`, [field]),
    ]),
    ...['POST', 'get', 'TRACE', 'CONNECT', 'OPTIONS', 'WEBSOCKET'].map((method): readonly [string, Make] => [
      `method: ${method}`,
      (own) => ask(host, method, `/v1/${own}`),
    ]),
    [
      'a change to WebSocket',
      (own) => ask(host, RULE_METHOD, `/v1/${own}`, ['Connection: Upgrade', 'Upgrade: websocket']),
    ],
    ['HTTP/2 without asking', (own) => `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${own}`],
    ['a tab instead of a space', (own) => `GET\t/v1/${own} HTTP/1.1\r\nHost: ${host}\r\n\r\n`],
    ['no version', (own) => `GET /v1/${own}\r\n\r\n`],
    ['Host with a trailing dot', (own) => ask(`${host}.`, RULE_METHOD, `/v1/${own}`)],
    ['Host with another port', (own) => ask(`${host}:8080`, RULE_METHOD, `/v1/${own}`)],
    ['absolute-form of another path', (own) => ask(host, RULE_METHOD, `${scheme}://${host}/admin-${own}`)],
    ['a second request behind one that is allowed', (own) => `${first(host)}${ask(host, 'DELETE', `/v1/${own}`)}`],
    [
      'a request in what is two lengths of a body',
      (own) => {
        const inner = ask(host, RULE_METHOD, `/admin-${own}`);
        const fields = [`Content-Length: ${inner.length + 5}`, 'Transfer-Encoding: chunked'];
        return `${head(host, RULE_METHOD, `/v1/${own}`, fields)}0\r\n\r\n${inner}`;
      },
    ],
    [
      'a request as the body of GET',
      (own) => {
        const inner = ask(host, RULE_METHOD, `/admin-${own}`);
        return `${head(host, RULE_METHOD, `/v1/${own}`, [`Content-Length: ${inner.length}`])}${inner}`;
      },
    ],
    [
      'a body whose length the next proxy is to drop',
      (own) => {
        const inner = ask(host, RULE_METHOD, `/admin-${own}`);
        const fields = [`Content-Length: ${inner.length}`, 'Connection: Content-Length'];
        return `${head(host, BODY_METHOD, `/v1/${own}`, fields)}${inner}`;
      },
    ],
    [
      'a request behind chunks',
      (own) => {
        const inner = ask(host, RULE_METHOD, `/admin-${own}`);
        return `${head(host, BODY_METHOD, '/v1/chunks', ['Transfer-Encoding: chunked'])}0\r\n\r\n${inner}`;
      },
    ],
    [
      'a body that waits for 100-continue',
      (own) => head(host, 'PATCH', `/v1/${own}`, ['Expect: 100-continue', 'Content-Length: 1']),
    ],
  ];
  return list.map(([what, make], index) => ({ what, text: make(mark(index)) }));
}

/** A complete request that closes its connection. */
export function ask(host: string, method: string, target: string, fields: readonly string[] = []): string {
  return head(host, method, target, [...fields, 'Connection: close']);
}

const first = (host: string): string => head(host, RULE_METHOD, '/v1/first', []);

function head(host: string, method: string, target: string, fields: readonly string[]): string {
  return `${[`${method} ${target} HTTP/1.1`, `Host: ${host}`, ...fields].join('\r\n')}\r\n\r\n`;
}
