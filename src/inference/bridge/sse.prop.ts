import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { eventData, type SsePiece, SseSplitter } from './sse.ts';
import { StreamUsage } from './usage.ts';

const MAX = 64;

/** Streams with many line ends and multi-byte characters. */
const stream = fc
  .array(
    fc.oneof(
      fc.constantFrom('\n', '\r', '\r\n', '\n\n', '\r\n\r\n', 'data: ', ':', 'é', '🙂', '\ufeff'),
      fc.string({ maxLength: 8 }),
      fc.constant('x'.repeat(MAX)),
    ),
    { maxLength: 60 },
  )
  .map((parts) => Buffer.from(parts.join('')));
const cuts = fc.array(fc.nat(600), { maxLength: 30 });

function pieces(splitter: SseSplitter, bytes: Buffer, at: readonly number[]): SsePiece[] {
  const places = [...new Set(at.filter((n) => n < bytes.length))].sort((a, b) => a - b);
  const out: SsePiece[] = [];
  let start = 0;
  for (const end of [...places, bytes.length]) {
    out.push(...splitter.push(bytes.subarray(start, end)));
    start = end;
  }
  return out;
}
const everyByte = Array.from({ length: 4000 }, (_, i) => i);

describe('SseSplitter', () => {
  it('loses, adds and reorders nothing', () => {
    fc.assert(
      fc.property(stream, cuts, (bytes, at) => {
        const splitter = new SseSplitter(MAX);
        const out = pieces(splitter, bytes, at).map((piece) => piece.bytes);
        expect(Buffer.concat([...out, splitter.rest()])).toEqual(bytes);
      }),
    );
  });
  it('finds the same events wherever the stream is cut', () => {
    const events = (bytes: Buffer, at: readonly number[]) =>
      pieces(new SseSplitter(MAX), bytes, at)
        .filter((piece) => piece.kind === 'event')
        .map((piece) => piece.bytes.toString('latin1'));
    fc.assert(
      fc.property(stream, cuts, (bytes, at) => {
        const whole = events(bytes, []);
        expect(events(bytes, at)).toEqual(whole);
        expect(events(bytes, everyByte)).toEqual(whole);
      }),
    );
  });
  it('buffers at most the limit', () => {
    fc.assert(
      fc.property(stream, cuts, (bytes, at) => {
        const splitter = new SseSplitter(MAX);
        pieces(splitter, bytes, at);
        expect(splitter.rest().length).toBeLessThanOrEqual(MAX);
      }),
    );
  });
});

const lineEnd = fc.constantFrom('\n', '\r', '\r\n');
const event = fc.oneof(
  fc.constant({ usage: { prompt_tokens: 1, completion_tokens: 2 }, choices: [] }),
  fc.record({ choices: fc.constant([{ delta: { content: 'é' } }]), usage: fc.constant(null) }),
  fc.constant({ choices: [] }),
  fc.constant({ choices: [{ delta: {} }], usage: { prompt_tokens: 1 } }),
  fc.constant({ id: 'y'.repeat(2000), choices: [], usage: {} }),
);
const encoded = fc
  .tuple(event, lineEnd, fc.boolean())
  .map(([value, eol, comment]) => ({
    value,
    text: `${comment ? `: note${eol}` : ''}data: ${JSON.stringify(value)}${eol}${eol}`,
  }));

describe('hiding usage', () => {
  it('equals removing those events, wherever the stream is cut', () => {
    const model = (events: readonly { value: { choices: readonly unknown[]; usage?: unknown }; text: string }[]) =>
      events
        .filter(({ value, text }) => {
          const isUsage = value.choices.length === 0 && value.usage !== undefined;
          return !isUsage || text.length > 1024;
        })
        .map(({ text }) => text)
        .join('');
    fc.assert(
      fc.property(fc.array(encoded, { maxLength: 12 }), cuts, (events, at) => {
        const bytes = Buffer.from(events.map(({ text }) => text).join(''));
        const usage = new StreamUsage(true);
        const splitter = new SseSplitter(1024);
        const kept = pieces(splitter, bytes, at).filter((piece) => usage.accept(piece));
        const out = Buffer.concat([...kept.map((piece) => piece.bytes), splitter.rest()]);
        expect(out.toString()).toBe(model(events));
      }),
    );
  });
});

describe('eventData', () => {
  it('joins the data lines, whatever other fields an event has', () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 20 }).map((s) => s.replace(/[\r\n]/g, ''));
    fc.assert(
      fc.property(fc.array(text, { minLength: 1, maxLength: 4 }), lineEnd, (lines, eol) => {
        const bytes = `id: 1${eol}${lines.map((line) => `data: ${line}${eol}`).join('')}${eol}`;
        expect(eventData(Buffer.from(bytes))).toBe(lines.join('\n'));
      }),
    );
  });
  it('never throws', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(typeof eventData(Buffer.from(bytes))).toMatch(/string|undefined/);
      }),
    );
  });
});
