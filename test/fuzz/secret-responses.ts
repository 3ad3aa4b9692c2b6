/** Answers of a server that knows a secret: the guest never gets it, and the same answers however they are cut. */
import { SecretResponses } from '../../src/egress/net/secret/responses.ts';
import { SECRET_MATCHER, SECRET_VALUE, withoutChunks } from '../support/server-secret.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

const ENCODED = [SECRET_VALUE, Buffer.from(SECRET_VALUE).toString('base64'), Buffer.from(SECRET_VALUE).toString('hex')];

export const secretResponses = target(
  'secret-responses',
  (bytes) => {
    const text = sameHoweverCut(bytes, (pieces) => {
      const responses = new SecretResponses(SECRET_MATCHER);
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
    must(!text.includes(SECRET_VALUE), 'the secret itself');
  },
  {
    seeds: [
      `HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n${SECRET_VALUE}`,
      `HTTP/1.1 200 OK\r\nX: ${SECRET_VALUE}\r\nContent-Length: 0\r\n\r\n`,
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\ntok_012345\r\na\r\n6789abcdef\r\n0\r\n\r\n',
      `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n${ENCODED.join(' ')}`,
      `HTTP/1.1 204 No\r\n\r\nHTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n\x81\x14${SECRET_VALUE}`,
    ],
  },
);
