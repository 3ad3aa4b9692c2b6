import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CacheHintMask } from './cache-hints.ts';

const KEYS = ['cached_tokens', 'timings', 'prompt_time'];

function withoutHints(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutHints);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).map(([key, child]) => [
    key,
    KEYS.includes(key) ? hidden(child) : withoutHints(child),
  ]);
  return Object.fromEntries(entries);
}

function hidden(value: unknown): unknown {
  if (typeof value === 'number') return 0;
  if (typeof value === 'string') return '';
  if (Array.isArray(value)) return [];
  return typeof value === 'object' && value !== null ? {} : value;
}

const json = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    fc.jsonValue({ maxDepth: 1 }),
    fc.dictionary(fc.oneof(fc.constantFrom(...KEYS), fc.string()), tie('value')),
    fc.array(tie('value'), { maxLength: 4 }),
  ),
})).value;

describe('CacheHintMask', () => {
  it('keeps all other values of any document, however it is cut', () => {
    fc.assert(
      fc.property(json, fc.integer({ min: 1, max: 9 }), fc.boolean(), (value, size, pretty) => {
        const mask = new CacheHintMask();
        const bytes = Buffer.from(JSON.stringify(value, null, pretty ? 1 : 0));
        const parts: Buffer[] = [];
        for (let at = 0; at < bytes.length; at += size) {
          parts.push(mask.mask(bytes.subarray(at, at + size)));
        }
        const out = Buffer.concat(parts);
        expect(JSON.parse(out.toString())).toEqual(withoutHints(JSON.parse(bytes.toString())));
      }),
    );
  });
});
