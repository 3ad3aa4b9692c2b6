import { describe, expect, it } from 'vitest';
import { type BodyFraming, type FramerRules, type HttpFrame, HttpFramer } from './framer.ts';
import { REQUEST_RULES } from './requests.ts';
import { RESPONSE_RULES } from './response-head.ts';

function frames(rules: FramerRules, text: string, body: BodyFraming = { kind: 'chunked' }) {
  const framer = new HttpFramer(rules);
  const out: HttpFrame[] = [];
  for (const frame of framer.frames(Buffer.from(text, 'latin1'))) {
    out.push(frame);
    if (frame.kind === 'head') framer.readBody(body);
  }
  return out;
}
const last = (...args: Parameters<typeof frames>) => frames(...args).at(-1);
const data = (text: string) => ({ kind: 'data', bytes: Buffer.from(text) });
const HEAD = 'x\r\n\r\n';

describe('HttpFramer', () => {
  it('frames a body by its length, and then the next head', () => {
    expect(frames(RESPONSE_RULES, `${HEAD}hello${HEAD}`, { kind: 'length', bytes: 5 })).toEqual([
      { kind: 'head', lines: ['x'] },
      data('hello'),
      { kind: 'end' },
      { kind: 'head', lines: ['x'] },
    ]);
  });
  it('frames chunks and their trailer', () => {
    expect(frames(RESPONSE_RULES, `${HEAD}2;a=b\r\nhi\n0\r\nSum: 1\r\n\r\n`)).toEqual([
      { kind: 'head', lines: ['x'] },
      { kind: 'chunk', line: '2;a=b', bytes: 2 },
      data('hi'),
      { kind: 'chunk_end' },
      { kind: 'chunk', line: '0', bytes: 0 },
      { kind: 'trailer', lines: ['Sum: 1'] },
      { kind: 'end' },
    ]);
  });
  it('frames a body until the stream closes, and a head after a body that does not exist', () => {
    const framer = new HttpFramer(RESPONSE_RULES);
    for (const frame of framer.frames(Buffer.from(`${HEAD}any${HEAD}`)))
      if (frame.kind === 'head') framer.readBody({ kind: 'until_close' });
    expect(framer.isAtStart).toBe(false);
    framer.end();
    expect(framer.isAtStart).toBe(true);
    const none = frames(RESPONSE_RULES, HEAD + HEAD, { kind: 'none' });
    expect(none.map(({ kind }) => kind)).toEqual(['head', 'head']);
  });
  it('gives no frame after stop', () => {
    const framer = new HttpFramer(RESPONSE_RULES);
    const kinds: string[] = [];
    for (const { kind } of framer.frames(Buffer.from(HEAD + HEAD))) {
      kinds.push(kind);
      framer.stop();
    }
    expect(kinds).toEqual(['head']);
    expect([...framer.frames(Buffer.from(HEAD))]).toEqual([]);
  });

  const refused = (reason: string, isInHead: boolean) => ({ kind: 'refused', reason, isInHead });
  it.each([REQUEST_RULES, RESPONSE_RULES])('accepts a head of exactly the size limit', (rules) => {
    const head = (bytes: number): string => `${'x'.repeat(bytes - 4)}\r\n\r\n`;
    expect(last(rules, head(rules.headBytesMax))).toMatchObject({ kind: 'head' });
    expect(last(rules, head(rules.headBytesMax + 1))).toEqual(refused('too_long', true));
    expect(last(rules, 'x'.repeat(rules.headBytesMax))).toBeUndefined();
    expect(last(rules, 'x'.repeat(rules.headBytesMax + 1))).toEqual(refused('too_long', true));
  });
  it('accepts a strict head of exactly the line limit', () => {
    const head = (lines: number): string => `${'x\r\n'.repeat(lines)}\r\n`;
    const { headLinesMax } = REQUEST_RULES;
    expect(last(REQUEST_RULES, head(headLinesMax))).toMatchObject({ kind: 'head' });
    expect(last(REQUEST_RULES, head(headLinesMax + 1))).toEqual(refused('too_long', true));
  });
  it.each([REQUEST_RULES, RESPONSE_RULES])('accepts chunk lines and trailers of exactly their limits', (rules) => {
    const { chunkLineBytesMax, chunkEndBytesMax, trailerBytesMax } = rules;
    const tooLong = refused('too_long', false);
    const fill = (bytes: number): string => 'x'.repeat(bytes);
    expect(last(rules, `${HEAD}${fill(chunkLineBytesMax)}`)).toMatchObject({ kind: 'head' });
    expect(last(rules, `${HEAD}${fill(chunkLineBytesMax + 1)}`)).toEqual(tooLong);
    expect(last(rules, `${HEAD}2\r\nhi${fill(chunkEndBytesMax)}`)).toEqual(data('hi'));
    expect(last(rules, `${HEAD}2\r\nhi${fill(chunkEndBytesMax + 1)}`)).toEqual(tooLong);
    const trailer = (bytes: number): string => `x\r\n${fill(bytes - 7)}\r\n\r\n`;
    expect(last(rules, `${HEAD}0\r\n${trailer(trailerBytesMax)}`)).toEqual({ kind: 'end' });
    expect(last(rules, `${HEAD}0\r\n${trailer(trailerBytesMax + 1)}`)).toEqual(tooLong);
  });
  it.each([
    ['line_end', true, 'x\n\n'],
    ['line_end', true, 'x\ry\r\n\r\n'],
    ['line_end', false, `${HEAD}2\nhi\r\n`],
    ['chunk', false, `${HEAD}2;a=b\r\nhi\r\n`],
    ['chunk', false, `${HEAD}2\r\nhi\r\n0x\r\n`],
    ['chunk', false, `${HEAD}\r\n`],
  ])('strict: refuses with %s (in a head: %s) %j', (reason, isInHead, text) => {
    expect(last(REQUEST_RULES, text)).toEqual(refused(reason, isInHead));
  });
  it('lenient: refuses a chunk without its end or its size', () => {
    expect(last(RESPONSE_RULES, `${HEAD}2\r\nhiX\r\n`)).toEqual(refused('chunk', false));
    expect(last(RESPONSE_RULES, `${HEAD}xyz\r\n`)).toEqual(refused('chunk', false));
  });
});
