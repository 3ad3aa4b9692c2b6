import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SECRET_MATCHER, SECRET_VALUE, withoutChunks } from '../../../../test/support/server-secret.ts';
import { SecretResponses } from './responses.ts';

const RUNS = { numRuns: 2000 };
const part = fc.constantFrom(
  'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n',
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
  'HTTP/1.1 200 OK\r\n\r\n',
  'HTTP/1.1 100 Continue\r\n\r\n',
  'HTTP/1.1 204 No Content\r\n\r\n',
  `HTTP/1.1 200 OK\r\nX: ${SECRET_VALUE}\r\nContent-Length: 0\r\n\r\n`,
  '14\r\n',
  'a\r\ntok_012345\r\n',
  'a\r\n6789abcdef\r\n',
  '0\r\nX: y\r\n\r\n',
  SECRET_VALUE,
  '\r\n',
  'x',
);
const input = fc.array(part, { maxLength: 12 }).map((parts) => Buffer.from(parts.join(''), 'latin1'));
const cuts = fc.array(fc.nat(30), { maxLength: 20 });

function read(bytes: Buffer, sizes: readonly number[]) {
  const responses = new SecretResponses(SECRET_MATCHER);
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

describe('SecretResponses properties', () => {
  it('gives the same answers however the input is cut, and never a secret', () => {
    fc.assert(
      fc.property(input, cuts, (bytes, sizes) => {
        const whole = read(bytes, []);
        expect(read(bytes, sizes)).toEqual(whole);
        expect(whole.text).not.toContain(SECRET_VALUE);
      }),
      RUNS,
    );
  });
});
