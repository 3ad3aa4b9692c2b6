/** DNS over TCP: the same messages however the stream is cut, none longer than allowed. */
import { encodeQuery, parseAnswer, parseQuery, QUERY_BYTES_MAX } from '../../src/egress/net/dns/message.ts';
import { TcpMessages, tcpMessage } from '../../src/egress/net/dns/tcp-messages.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

export const dnsTcp = target(
  'dns-tcp',
  (bytes) => {
    const found: Buffer[] = [];
    sameHoweverCut(bytes, (pieces) => {
      found.length = 0;
      const messages = new TcpMessages(QUERY_BYTES_MAX);
      for (const piece of pieces) {
        messages.push(piece);
        for (let each = messages.next(); each !== undefined; each = messages.next()) {
          if (each === 'too_long') return `${found.length} too long`;
          found.push(each);
        }
      }
      return found.map((each) => each.toString('hex')).join();
    });
    const written = Buffer.concat(found.map(tcpMessage));
    must(bytes.subarray(0, written.length).equals(written), 'bytes are lost');
    for (const message of found) {
      must(message.length <= QUERY_BYTES_MAX, 'a long message');
      parseQuery(message);
      parseAnswer(message);
    }
  },
  {
    seeds: [
      tcpMessage(encodeQuery(7, 'a.example', 1)),
      Buffer.concat([tcpMessage(encodeQuery(7, 'b.example', 28)), tcpMessage(Buffer.alloc(0))]),
      Buffer.from([0xff, 0xff, 0]),
    ],
  },
);
