/** Requests on a connection, in any pieces: the forwarded bytes parse as the same requests. */
import fc from 'fast-check';
import { HEAD_BYTES_MAX, type RequestHead } from '../../src/egress/net/http/head.ts';
import { HttpRequestReader } from '../../src/egress/net/http/requests.ts';
import { must, structured } from './target.ts';

const part = fc.oneof(
  fc.constantFrom(
    'GET / HTTP/1.1\r\nHost: a.example\r\n',
    'POST / HTTP/1.1\r\nHost: b.example\r\n',
    'GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n',
    'OPTIONS * HTTP/1.0\r\nHost: [::1]:80\r\n',
    'Content-Length: 3\r\n',
    'Transfer-Encoding: chunked\r\n',
    'Host: c.example\r\n',
    'Connection: upgrade, x\r\nUpgrade: h2c\r\n',
    ' folded\r\n',
  ),
  fc.constantFrom('\r\n', '\n', '\r', '\r\n\r\n', 'abc', '3\r\nabc\r\n', '0\r\n\r\n', '0\r\nX: y\r\n\r\n'),
  fc.string({ maxLength: 6 }),
  fc.constantFrom(':', ' ', '\t', '\0', 'é', 'X'.repeat(HEAD_BYTES_MAX)),
);

interface Read {
  readonly heads: readonly RequestHead[];
  readonly passed: string;
  readonly isRefused: boolean;
}

function read(bytes: Buffer, cuts: readonly number[]): Read {
  const reader = new HttpRequestReader();
  const heads: RequestHead[] = [];
  let passed = '';
  let isRefused = false;
  let start = 0;
  const places = [...new Set(cuts.filter((at) => at < bytes.length))].sort((a, b) => a - b);
  for (const end of [...places, bytes.length]) {
    for (const piece of reader.push(bytes.subarray(start, end))) {
      must(!isRefused, 'something came after a refusal');
      if (piece.kind === 'head') {
        heads.push(piece.head);
        passed += piece.head.forward;
      } else if (piece.kind === 'body') passed += Buffer.from(piece.bytes).toString('latin1');
      else if (piece.kind === 'refused') isRefused = true;
    }
    start = end;
  }
  return { heads, passed, isRefused };
}

export const httpHead = structured(
  'http-head',
  fc.record({ parts: fc.array(part, { maxLength: 12 }), cuts: fc.array(fc.nat(400), { maxLength: 12 }) }),
  ({ parts, cuts }) => {
    const bytes = Buffer.from(parts.join(''), 'latin1');
    const whole = read(bytes, []);
    must(JSON.stringify(read(bytes, cuts)) === JSON.stringify(whole), 'cut matters');
    // An upstream of the same strictness sees those requests and no other, and would pass on the same bytes.
    const again = read(Buffer.from(whole.passed, 'latin1'), []);
    must(!again.isRefused, 'what was passed on is refused');
    must(again.passed === whole.passed, 'what was passed on reads differently');
    must(JSON.stringify(again.heads) === JSON.stringify(whole.heads), 'other requests');
  },
);
