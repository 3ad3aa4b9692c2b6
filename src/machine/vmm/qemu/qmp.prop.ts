import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { QmpDecoder, type QmpMessage } from './qmp.ts';

const line = fc.oneof(
  fc.constant({ QMP: {} }),
  fc.record({ return: fc.jsonValue(), id: fc.nat() }),
  fc.record({ error: fc.record({ desc: fc.string() }), id: fc.nat() }),
  fc.record({ event: fc.string(), data: fc.dictionary(fc.string(), fc.jsonValue()) }),
);

/** Cuts bytes at the given places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const at = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [...at, bytes.length].map((to, index) => bytes.subarray(at[index - 1] ?? 0, to));
}

describe('QmpDecoder', () => {
  it('QmpDecoder: cut input gives the same messages as whole input', () => {
    fc.assert(
      fc.property(fc.array(line, { maxLength: 8 }), fc.array(fc.nat(), { maxLength: 12 }), (lines, at) => {
        const bytes = Buffer.from(lines.map((value) => `${JSON.stringify(value)}\r\n`).join(''));
        const whole = new QmpDecoder().receive(bytes);
        const decoder = new QmpDecoder();
        const pieces: QmpMessage[] = [];
        for (const piece of cut(bytes, at)) {
          const result = decoder.receive(piece);
          expect(result.ok).toBe(true);
          if (result.ok) pieces.push(...result.messages);
        }
        expect({ ok: true, messages: pieces }).toEqual(whole);
        expect(pieces).toHaveLength(lines.length);
      }),
    );
  });
  it('QmpDecoder: never throws on any input', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 10 }), (pieces) => {
        const decoder = new QmpDecoder();
        for (const piece of pieces) expect(typeof decoder.receive(piece).ok).toBe('boolean');
      }),
      { numRuns: 2_000 },
    );
  });
});
