import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SecretValue } from '../../base/secret-value.ts';
import { HttpFramer } from '../http/framer.ts';
import { parseStatus, RESPONSE_RULES, responseFraming } from '../http/response-head.ts';
import { SecretResponses } from './responses.ts';
import { matcherOf } from './secret.ts';

const RUNS = { numRuns: 2000 };
const VALUE = 'tok_0123456789abcdef';
const SECRET = {
  name: 'K',
  hosts: ['h'],
  places: [],
  placeholder: 'NV_aaaaaaaaaaaaaaaaa',
  value: new SecretValue(VALUE),
};
const part = fc.constantFrom(
  'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n',
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
  'HTTP/1.1 200 OK\r\n\r\n',
  'HTTP/1.1 100 Continue\r\n\r\n',
  'HTTP/1.1 204 No Content\r\n\r\n',
  `HTTP/1.1 200 OK\r\nX: ${VALUE}\r\nContent-Length: 0\r\n\r\n`,
  '14\r\n',
  'a\r\ntok_012345\r\n',
  'a\r\n6789abcdef\r\n',
  '0\r\nX: y\r\n\r\n',
  VALUE,
  '\r\n',
  'x',
);
const input = fc
  .array(part, { maxLength: 12 })
  .map((parts) => Buffer.from(parts.join(''), 'latin1'));
const cuts = fc.array(fc.nat(30), { maxLength: 20 });

/** What becomes of the answers, and their bytes without the framing of chunks, which are cut anew. */
function read(bytes: Buffer, sizes: readonly number[]) {
  const responses = new SecretResponses(matcherOf([SECRET], 'h'));
  for (let i = 0; i < 4; i += 1) responses.expect({ method: 'GET', isUpgrade: false });
  const pieces = [];
  let start = 0;
  for (const size of [...sizes, bytes.length]) {
    pieces.push(...responses.push(bytes.subarray(start, start + size)));
    start += size;
  }
  pieces.push(...responses.end());
  const out = pieces.map((piece) => (piece.kind === 'bytes' ? piece.bytes : Buffer.alloc(0)));
  return {
    kinds: pieces.filter(({ kind }) => kind !== 'bytes'),
    text: withoutChunks(Buffer.concat(out)),
    isBetween: responses.isBetween,
  };
}

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

describe('SecretResponses properties', () => {
  it('gives the same answers however the input is cut, and never a secret', () => {
    fc.assert(
      fc.property(input, cuts, (bytes, sizes) => {
        const whole = read(bytes, []);
        expect(read(bytes, sizes)).toEqual(whole);
        expect(whole.text).not.toContain(VALUE);
      }),
      RUNS,
    );
  });
});
