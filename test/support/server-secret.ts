/** A secret that a server knows, for tests of which parts of the server's answers reach a guest. */
import { SecretValue } from '../../src/base/request/secret-value.ts';
import { HttpFramer } from '../../src/egress/net/http/framer.ts';
import { parseStatus, RESPONSE_RULES, responseFraming } from '../../src/egress/net/http/response-head.ts';
import { matcherOf } from '../../src/egress/net/secret/secret.ts';

export const SECRET_VALUE = 'tok_0123456789abcdef';

export const SECRET_MATCHER = matcherOf(
  [{ name: 'K', hosts: ['h'], places: [], placeholder: 'NV_aaaaaaaaaaaaaaaaa', value: new SecretValue(SECRET_VALUE) }],
  'h',
);

/** Answers to GET without the framing of chunks, which are split anew. */
export function withoutChunks(bytes: Buffer): string {
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
