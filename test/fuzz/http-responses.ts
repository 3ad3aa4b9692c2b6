/** Answers of a server: their ends are found the same however they are cut, and by both of our readers. */
import { HttpResponses } from '../../src/egress/net/http/responses.ts';
import { SecretResponses } from '../../src/egress/net/secret/responses.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

const METHODS = ['GET', 'HEAD', 'POST', 'CONNECT'];

export const httpResponses = target(
  'http-responses',
  (bytes) => {
    const [choice = 0] = bytes;
    const asked = [0, 2, 4].map((shift) => METHODS[(choice >> shift) & 3] ?? '');
    const stream = bytes.subarray(1);
    const ends = sameHoweverCut(stream, (pieces) => {
      const responses = new HttpResponses();
      for (const method of asked) responses.expect(method);
      for (const piece of pieces) responses.push(piece);
      return `${responses.isComplete} ${responses.isBetween}`;
    });
    let refused = '';
    sameHoweverCut(stream, (pieces) => {
      const responses = new SecretResponses(undefined);
      for (const method of asked) responses.expect({ method, isUpgrade: false });
      const out = pieces.flatMap((piece) => responses.push(piece));
      const passed = out.map((each) => (each.kind === 'bytes' ? each.bytes : Buffer.alloc(0)));
      const others = out.filter(({ kind }) => kind !== 'bytes');
      refused = JSON.stringify(others.find(({ kind }) => kind === 'refused') ?? '');
      if (refused === '""') {
        const mine = `${responses.isComplete} ${responses.isBetween}`;
        const isOpen = !ends.endsWith('true');
        must(isOpen || mine === ends, `the end is elsewhere: ${ends}, ${mine}`);
      }
      return JSON.stringify([others, passed.reduce((sum, each) => sum + each.length, 0) > 0]);
    });
  },
  {
    seeds: [
      '\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 204 No\r\n\r\n',
      '\x01HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n',
      '\0HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n',
      '\0HTTP/1.0 404 No\nContent-Length: 0\n\nHTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n',
    ],
  },
);
