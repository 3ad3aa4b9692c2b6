import fc from 'fast-check';
import { expect, it } from 'vitest';
import { cleanText } from './clean-text.ts';
import { findSecrets, redact } from './redact.ts';

/** Beginnings and parts of secrets, repeated into worst-case texts. */
const HOSTILE = fc.constantFrom(
  ...['a@', '@', 'eyJ', 'eyJaaaaaaaa.', 'eyJ-', '4', '4444 ', '4 ', '4-', '-----BEGIN ', '-----END '],
  ...['-----BEGIN PRIVATE KEY-----', 'sk-', 'sk-a ', 'bearer ', 'bearer a1', 'AKIA', 'A', 'a.', '.a'],
  ...['ghp_', '-', '_', ' ', '\ud800', '😀', 'data:a/b;base64,', 'data:', ';a=b', '\n'],
);
const hostileText = fc
  .array(fc.tuple(fc.array(HOSTILE, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 3000 })), {
    maxLength: 4,
  })
  .map((parts) => parts.map(([words, times]) => words.join('').repeat(times)).join(''))
  .map((text) => text.slice(0, 60_000));

it('any text: secrets are in order and do not overlap, and the rest of the text stays', () => {
  fc.assert(
    fc.property(hostileText, (text) => {
      let at = 0;
      let out = '';
      for (const { start, end, kind } of findSecrets(text)) {
        expect(start).toBeGreaterThanOrEqual(at);
        expect(end).toBeGreaterThan(start);
        out += `${text.slice(at, start)}[redacted: ${kind}]`;
        at = end;
      }
      expect(redact(text)).toBe(out + text.slice(at));
    }),
    { numRuns: 60 },
  );
});

it('any text, cut anywhere: a secret in it is never shown in part', () => {
  const secret = 'sk-proj-ZQXJZQXJZQXJZQXJ';
  fc.assert(
    fc.property(
      fc.string({ maxLength: 200, unit: 'grapheme' }),
      fc.string({ maxLength: 200, unit: 'grapheme' }),
      fc.integer({ min: 0, max: 400 }),
      (before, after, bytes) => {
        const clean = cleanText(`${before} ${secret} ${after}`, 'redacted', bytes);
        expect(clean.text).not.toMatch(/ZQXJ|sk-proj/);
        expect(Buffer.byteLength(clean.text)).toBeLessThanOrEqual(bytes + 60);
        expect(clean.text.isWellFormed()).toBe(true);
      },
    ),
    { numRuns: 500 },
  );
});
