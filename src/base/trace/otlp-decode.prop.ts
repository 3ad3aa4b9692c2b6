import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DECODE_LIMITS, decodeExport } from './otlp-decode.ts';

/** A field with number < 16 and these bytes. */
const field = (number: number, bytes: Buffer): Buffer => {
  const length: number[] = [];
  let rest = bytes.length;
  do {
    length.push((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    rest >>>= 7;
  } while (rest > 0);
  return Buffer.concat([Buffer.from([(number << 3) | 2, ...length]), bytes]);
};

const fixed64 = (number: number, value: bigint): Buffer => {
  const bytes = Buffer.alloc(9);
  bytes[0] = (number << 3) | 1;
  bytes.writeBigUInt64LE(value, 1);
  return bytes;
};

const span = Buffer.concat([
  field(1, Buffer.alloc(16, 1)),
  field(2, Buffer.alloc(8, 2)),
  field(5, Buffer.from('name')),
  fixed64(7, 1_000_000n),
  fixed64(8, 3_000_000n),
]);
const request = field(1, field(2, field(2, span)));

const bytes = fc.uint8Array({ maxLength: 400 }).map((all) => Buffer.from(all));

describe('decodeExport', () => {
  it('any bytes give a result within the limits, never an exception', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          bytes,
          bytes.map((any) => field(1, field(2, field(2, any)))),
        ),
        (any) => {
          const decoded = decodeExport(any);
          for (const one of decoded?.spans ?? []) {
            expect(one.traceId).toMatch(/^[0-9a-f]{32}$/);
            expect(one.endMs).toBeGreaterThanOrEqual(one.startMs);
            expect(Object.keys(one.attributes).length).toBeLessThanOrEqual(DECODE_LIMITS.attributesMax);
          }
        },
      ),
    );
  });

  it('a span followed by unknown fields is the same span', () => {
    fc.assert(
      fc.property(bytes, fc.integer({ min: 20, max: 31 }), (any, number) => {
        // Numbers above 15 take two bytes.
        const tag = (number << 3) | 2;
        const more = Buffer.concat([Buffer.from([(tag & 0x7f) | 0x80, tag >> 7]), field(1, any).subarray(1)]);
        const decoded = decodeExport(field(1, field(2, field(2, Buffer.concat([span, more])))));
        expect(decoded).toEqual(decodeExport(request));
      }),
    );
  });

  it('a truncated request is refused, except at the end of a whole message', () => {
    expect(decodeExport(request)?.spans).toMatchObject([{ name: 'name', startMs: 1, endMs: 3 }]);
    for (let length = 1; length < request.length; length += 1) {
      expect(decodeExport(request.subarray(0, length))).toBeNull();
    }
  });

  it('a request that is crafted to take long is refused early', () => {
    const empty = Buffer.from(Array.from({ length: 500_000 }, (_, n) => (n % 2 === 0 ? 0x12 : 0)));
    expect(decodeExport(field(1, field(2, empty)))).toBeNull();
    expect(decodeExport(field(1, empty))).toBeNull();
  });

  it('spans beyond the limit are counted, not read', () => {
    const many = Buffer.concat(Array.from({ length: 600 }, () => field(2, span)));
    const decoded = decodeExport(field(1, field(2, many)));
    expect([decoded?.spans.length, decoded?.over]).toEqual([DECODE_LIMITS.spansMax, 88]);
  });
});
