import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type HttpFrame, HttpFramer } from './framer.ts';
import { HttpRequestReader, REQUEST_RULES } from './requests.ts';
import { RESPONSE_RULES } from './response-head.ts';
import { HttpResponses } from './responses.ts';

const RUNS = { numRuns: 2000 };
const part = fc.oneof(
  fc.constantFrom(
    'POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n',
    'POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a.example\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n',
    'HTTP/1.1 200 OK\r\n\r\n',
  ),
  fc.constantFrom('5\r\nhello\r\n', '5;a=b\nhello\n', '0\r\n\r\n', '0\r\nX: y\r\n\r\n'),
  fc.constantFrom('\r\n', '\n', '\r', '\r\r\n', '\r\n\r\n', 'hello', 'X: y\r\n'),
  fc.string({ maxLength: 4, unit: 'binary-ascii' }),
  fc.constantFrom(2, 10, 4096, 16_384, 65_536).map((length) => 'x'.repeat(length)),
  fc.constantFrom('y: z\r\n'.repeat(99), 'y: z\r\n'.repeat(101)),
);
const input = fc.array(part, { maxLength: 10 }).map((parts) => Buffer.from(parts.join(''), 'latin1'));
const cuts = fc.array(fc.oneof(fc.nat(8), fc.nat(5000)), { maxLength: 20 });
const rules = fc.constantFrom(REQUEST_RULES, RESPONSE_RULES);

function cut(bytes: Buffer, sizes: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  let start = 0;
  for (const size of sizes) {
    pieces.push(bytes.subarray(start, start + size));
    start += size;
  }
  return [...pieces, bytes.subarray(start)];
}

/** All frames, with bodies framed as their heads say. Consecutive data frames are joined. */
function framesOf(framer: HttpFramer, pieces: readonly Buffer[]): HttpFrame[] {
  const frames: HttpFrame[] = [];
  for (const piece of pieces)
    for (const frame of framer.frames(piece)) {
      const last = frames.at(-1);
      if (frame.kind === 'data' && last?.kind === 'data')
        frames.splice(-1, 1, { kind: 'data', bytes: Buffer.concat([last.bytes, frame.bytes]) });
      else frames.push(frame.kind === 'data' ? { ...frame, bytes: Buffer.from(frame.bytes) } : frame);
      if (frame.kind !== 'head') continue;
      const head = frame.lines.join('\n');
      if (head.includes('chunked')) framer.readBody({ kind: 'chunked' });
      else if (head.includes('Content-Length')) framer.readBody({ kind: 'length', bytes: 5 });
      else if (head.startsWith('HTTP')) framer.readBody({ kind: 'until_close' });
    }
  return frames;
}

/** The bytes that a frame was read from, if every line ends in CRLF. */
function spell(frame: HttpFrame): string {
  if (frame.kind === 'data') return Buffer.from(frame.bytes).toString('latin1');
  if (frame.kind === 'chunk') return `${frame.line}\r\n`;
  if (frame.kind === 'chunk_end') return '\r\n';
  if (frame.kind === 'head' || frame.kind === 'trailer')
    return [...frame.lines, ''].map((line) => `${line}\r\n`).join('');
  return '';
}

describe('HttpFramer properties', () => {
  it('gives the same frames however the input is cut', () => {
    fc.assert(
      fc.property(rules, input, cuts, (rules, bytes, sizes) => {
        const [whole, inPieces] = [new HttpFramer(rules), new HttpFramer(rules)];
        expect(framesOf(inPieces, cut(bytes, sizes))).toEqual(framesOf(whole, [bytes]));
        expect(inPieces.isAtStart).toBe(whole.isAtStart);
        expect(inPieces.isInHead).toBe(whole.isInHead);
      }),
      RUNS,
    );
  });
  it('strict: the frames equal the input, with nothing added or left out', () => {
    fc.assert(
      fc.property(input, cuts, (bytes, sizes) => {
        const framer = new HttpFramer(REQUEST_RULES);
        const frames = framesOf(framer, cut(bytes, sizes));
        const spelled = frames.map(spell).join('');
        expect(bytes.toString('latin1').startsWith(spelled)).toBe(true);
        const refusals = frames.filter(({ kind }) => kind === 'refused');
        if (framer.isAtStart) expect(spelled).toHaveLength(bytes.length);
        expect(refusals).toEqual(frames.at(-1)?.kind === 'refused' ? [frames.at(-1)] : []);
      }),
      RUNS,
    );
  });
});

describe('HttpRequestReader and HttpResponses properties', () => {
  it('pass on and refuse the same however the input is cut', () => {
    const read = (pieces: readonly Buffer[]) => {
      const reader = new HttpRequestReader();
      const out = pieces.flatMap((piece) => reader.push(piece));
      const body = out.map((piece) => (piece.kind === 'body' ? piece.bytes : new Uint8Array()));
      return { others: out.filter(({ kind }) => kind !== 'body'), body: Buffer.concat(body), isCut: reader.isCut };
    };
    fc.assert(
      fc.property(input, cuts, (bytes, sizes) => {
        expect(read(cut(bytes, sizes))).toEqual(read([bytes]));
      }),
      RUNS,
    );
  });
  it('find the same end of answers however the input is cut', () => {
    const methods = fc.array(fc.constantFrom('GET', 'HEAD'), { maxLength: 4 });
    const isComplete = (asked: readonly string[], pieces: readonly Buffer[]): boolean => {
      const responses = new HttpResponses();
      for (const method of asked) responses.expect(method);
      for (const piece of pieces) responses.push(piece);
      return responses.isComplete;
    };
    fc.assert(
      fc.property(methods, input, cuts, (asked, bytes, sizes) => {
        expect(isComplete(asked, cut(bytes, sizes))).toBe(isComplete(asked, [bytes]));
      }),
      RUNS,
    );
  });
});
