/** HTTP requests for another server than a policy allows, open or hidden. Pure: one list for all worlds. */

interface ForgedRequest {
  readonly what: string;
  /** The server to connect to. */
  readonly to: 'allowed' | 'other';
  /** Sent at once, to port 80. */
  readonly text: string;
  /** Appears in the request line of an arrival. */
  readonly trace: string;
}

interface ForgedNames {
  readonly allowed: string;
  readonly other: { readonly name: string; readonly address: string };
  /** An allowed name that does not resolve to the other's address. */
  readonly forged: string;
  /** The mark of the nth request, without `/`. */
  readonly trace: (index: number) => string;
}

export function forgedRequests({ allowed, other, forged, trace }: ForgedNames): ForgedRequest[] {
  type Made = readonly [ForgedRequest['what'], ForgedRequest['to'], (path: string) => string];
  const list: readonly Made[] = [
    ['an address without a name', 'other', (path) => get(other.address, path)],
    ['Host is another name', 'allowed', (path) => get(other.name, path)],
    ['Host is forged', 'other', (path) => get(forged, path)],
    ['no Host', 'allowed', (path) => `GET ${path} HTTP/1.1\r\n\r\n`],
    ['two Hosts', 'allowed', (path) => `GET ${path} HTTP/1.1\r\nHost: ${allowed}\r\nHost: ${other.name}\r\n\r\n`],
    ['absolute-form to another name', 'allowed', (path) => get(allowed, `http://${other.name}${path}`)],
    [
      'CONNECT to another name',
      'allowed',
      (path) => {
        const target = `${path.slice(1)}.${other.name}:443`;
        return `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`;
      },
    ],
    ['Host with another port', 'allowed', (path) => get(`${allowed}:8080`, path)],
  ];
  return list.map(([what, to, make], index) => {
    const mark = trace(index + 1);
    return { what, to, text: make(`/${mark}`), trace: mark };
  });
}

/** A complete request that closes its connection. */
export function get(host: string, target = '/'): string {
  return `GET ${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`;
}

/** Spellings that inet_aton(3) and URLs parse as 169.254.169.254. */
export const METADATA_SPELLINGS = [
  '2852039166',
  '0xa9fea9fe',
  '0251.0376.0251.0376',
  '0xa9.0xfe.0xa9.0xfe',
  '169.254.43518',
  '169.16689662',
] as const;
