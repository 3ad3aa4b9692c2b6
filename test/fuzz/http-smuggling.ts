/**
 * Requests that are passed on, read by llhttp, the parser of Node and many servers: it must see the same requests and
 * bodies as those that were judged, and no other.
 */
import { createRequire } from 'node:module';
import { HttpRequestReader } from '../../src/egress/net/http/requests.ts';
import { must, target } from './target.ts';

interface Parser {
  initialize(type: number, resource: object, headBytesMax: number, flags: number): void;
  execute(bytes: Buffer): number | Error;
  [callback: number]: (...args: never[]) => void;
}
interface ParserClass {
  new (): Parser;
  readonly REQUEST: number;
  readonly kOnHeaders: number;
  readonly kOnHeadersComplete: number;
  readonly kOnBody: number;
  readonly kOnMessageComplete: number;
}
/** An internal module of Node, which `node:http` uses. */
const { HTTPParser, methods } = createRequire(import.meta.url)('_http_common') as {
  readonly HTTPParser: ParserClass;
  readonly methods: readonly string[];
};

interface Request {
  readonly method: string;
  readonly target: string;
  readonly fields: readonly string[];
  /** Null: in chunks. */
  body: string | null;
}

export const httpSmuggling = target(
  'http-smuggling',
  (bytes) => {
    const reader = new HttpRequestReader();
    const judged: Request[] = [];
    let passed = '';
    let isWhole = true;
    for (const piece of reader.push(bytes)) {
      if (piece.kind === 'head') {
        const { head } = piece;
        judged.push({
          method: head.method,
          target: head.path,
          fields: head.fields.flatMap(({ name, value }) => [name, value]),
          body: '',
        });
        passed += head.forward;
        isWhole = head.framing.kind !== 'chunked';
      } else if (piece.kind === 'body') {
        const text = Buffer.from(piece.bytes).toString('latin1');
        passed += text;
        const last = judged.at(-1);
        if (last !== undefined && isWhole) last.body += text;
        else if (last !== undefined) last.body = null;
      }
    }
    const seen = readByLlhttp(Buffer.from(passed, 'latin1'));
    must(seen.length <= judged.length, `${seen.length} requests instead of ${judged.length}`);
    for (const [at, request] of seen.entries()) {
      const { method, target: path, fields, body } = judged[at] as Request;
      must(request.method === method && request.target === path, `another request: ${path}`);
      must(JSON.stringify(request.fields) === JSON.stringify(fields), 'other fields');
      must(body === null || request.body === body, 'another body');
    }
  },
  {
    seeds: [
      'GET /a HTTP/1.1\r\nHost: a.example\r\n\r\nGET /b HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\r\n',
      'POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a.example\r\n\r\n',
      'POST /a HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nHost: b.example\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n',
      'OPTIONS * HTTP/1.0\r\nHost: [::1]:80\r\nConnection: x, keep-alive\r\n\r\n',
      'GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c\r\n\r\n',
    ],
  },
);

const FRAMING = /^(?:content-length|transfer-encoding|host)$/i;

/** Up to the first error. */
function readByLlhttp(bytes: Buffer): readonly Request[] {
  const seen: Request[] = [];
  const parser = new HTTPParser();
  parser.initialize(HTTPParser.REQUEST, {}, 64 * 1024, 0);
  const trailers: string[] = [];
  let early: string[] = [];
  let path = '';
  // Long heads come in parts.
  parser[HTTPParser.kOnHeaders] = (fields: string[], url: string) => {
    early.push(...fields);
    path += url;
  };
  parser[HTTPParser.kOnHeadersComplete] = (
    _major: number,
    _minor: number,
    fields: string[] | undefined,
    method: number,
    url: string | undefined,
  ) => {
    const all = [...early, ...(fields ?? [])];
    seen.push({ method: methods[method] ?? '', target: path + (url ?? ''), fields: all, body: '' });
    early = [];
    path = '';
  };
  parser[HTTPParser.kOnBody] = (chunk: Buffer) => {
    const last = seen.at(-1);
    if (last !== undefined) last.body = (last.body ?? '') + chunk.toString('latin1');
  };
  // Trailers come as fields, too: some servers take them for fields of the head, which was judged without them.
  parser[HTTPParser.kOnMessageComplete] = () => {
    trailers.push(...early.filter((_, at) => at % 2 === 0));
    early = [];
    path = '';
  };
  parser.execute(bytes);
  const framing = trailers.find((name) => FRAMING.test(name));
  must(framing === undefined, `the trailer ${framing}`);
  return seen;
}
