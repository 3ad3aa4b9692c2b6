/** Answers of a server that knows a secret: the guest never gets it, and the same answers however they are cut. */
import { SecretValue } from '../../src/base/secret-value.ts';
import { HttpFramer } from '../../src/net/http/framer.ts';
import { parseStatus, RESPONSE_RULES, responseFraming } from '../../src/net/http/response-head.ts';
import { SecretResponses } from '../../src/net/secret/responses.ts';
import { matcherOf } from '../../src/net/secret/secret.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

const VALUE = 'tok_0123456789abcdef';
const SECRET = {
  name: 'K',
  hosts: ['h'],
  places: [],
  placeholder: 'NV_aaaaaaaaaaaaaaaaa',
  value: new SecretValue(VALUE),
};
const MATCHER = matcherOf([SECRET], 'h');
const ENCODED = [VALUE, Buffer.from(VALUE).toString('base64'), Buffer.from(VALUE).toString('hex')];

export const secretResponses = target(
  'secret-responses',
  (bytes) => {
    const text = sameHoweverCut(bytes, (pieces) => {
      const responses = new SecretResponses(MATCHER);
      for (let i = 0; i < 4; i += 1) responses.expect({ method: 'GET', isUpgrade: i === 1 });
      const out = pieces.flatMap((piece) => responses.push(piece));
      out.push(...responses.end());
      const others = out.filter(({ kind }) => kind !== 'bytes');
      const passed = out.map((each) => (each.kind === 'bytes' ? each.bytes : Buffer.alloc(0)));
      const isTunnel = others.some(({ kind }) => kind === 'switched');
      // Frames of a WebSocket are cut anew.
      const content = isTunnel ? '' : withoutChunks(Buffer.concat(passed));
      return `${JSON.stringify(others)} ${responses.isBetween} ${content}`;
    });
    must(!text.includes(VALUE), 'the secret itself');
  },
  {
    seeds: [
      `HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n${VALUE}`,
      `HTTP/1.1 200 OK\r\nX: ${VALUE}\r\nContent-Length: 0\r\n\r\n`,
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\ntok_012345\r\na\r\n6789abcdef\r\n0\r\n\r\n',
      `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n${ENCODED.join(' ')}`,
      `HTTP/1.1 204 No\r\n\r\nHTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n\x81\x14${VALUE}`,
    ],
  },
);

function withoutChunks(bytes: Buffer): string {
  const framer = new HttpFramer(RESPONSE_RULES);
  let text = '';
  for (const frame of framer.frames(bytes)) {
    if (frame.kind === 'data') text += Buffer.from(frame.bytes).toString('latin1');
    else if (frame.kind === 'head') {
      text += frame.lines.join('\n');
      const [statusLine = '', ...fields] = frame.lines;
      const status = parseStatus(statusLine) ?? 0;
      const framing = status < 200 ? undefined : responseFraming(status, 'GET', fields);
      framer.readBody(framing ?? { kind: 'none' });
    }
  }
  return text;
}
