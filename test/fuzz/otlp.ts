/** Spans of a guest: within the limits, or no message; and what our own exporter writes is read again. */
import { DECODE_LIMITS, decodeExport } from '../../src/base/trace/otlp-decode.ts';
import { must, target } from './target.ts';

const span = Buffer.from(
  `0a10${'01'.repeat(16)}1208${'02'.repeat(8)}2a046e616d653002390100000000000000410200000000000000`,
  'hex',
);
const field = (number: number, bytes: Buffer): Buffer =>
  Buffer.concat([Buffer.of((number << 3) | 2, bytes.length), bytes]);

export const otlp = target(
  'otlp',
  (bytes) => {
    const decoded = decodeExport(bytes);
    if (decoded === null) return;
    must(decoded.spans.length <= DECODE_LIMITS.spansMax, 'many spans');
    must(decoded.over >= 0, 'fewer than none are over');
    for (const one of decoded.spans) {
      must(/^[0-9a-f]{32}$/.test(one.traceId), `trace ${one.traceId}`);
      must(/^[0-9a-f]{16}$/.test(one.spanId), `span ${one.spanId}`);
      must(/^([0-9a-f]{16})?$/.test(one.parentSpanId), `parent ${one.parentSpanId}`);
      must(Number.isFinite(one.startMs) && one.endMs >= one.startMs, 'ends before it starts');
      must(one.name.length <= DECODE_LIMITS.textCharactersMax, 'a long name');
      const attributes = Object.entries(one.attributes);
      must(attributes.length <= DECODE_LIMITS.attributesMax, 'many attributes');
      for (const text of attributes.flat())
        must(String(text).length <= DECODE_LIMITS.textCharactersMax, 'a long attribute');
    }
  },
  {
    seeds: [
      field(1, field(2, field(2, span))),
      field(1, field(2, Buffer.concat([field(2, span), field(2, span)]))),
      field(
        1,
        field(
          2,
          field(
            2,
            Buffer.concat([
              span,
              Buffer.from('4a0a0a016b12050a0376616c4a080a016e1203180708', 'hex'),
              Buffer.from('7a0412006802', 'hex'),
            ]),
          ),
        ),
      ),
    ],
  },
);
