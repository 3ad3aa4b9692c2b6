import { describe, expect, it } from 'vitest';
import { plain, plainJson, plainLines } from './plain.ts';

/** Escape sequences in 7 and 8 bits, a bell, a carriage return, text that runs backwards, a line separator. */
const HOSTILE = 'a\x1b]0;x\x07b\x9b2Jc\rd\u202ee\u2028f\x7f';

describe('plain text', () => {
  it('plain: replaces control characters, and keeps one line', () => {
    expect(plain(HOSTILE)).toBe('a?]0;x?b?2Jc?d?e?f?');
    expect(plain('a\nb\tc ü 漢 🙂')).toBe('a b c ü 漢 🙂');
  });

  it('plainLines: keeps line breaks and tabs', () => {
    expect(plainLines(`${HOSTILE}\r\ng\th\n`)).toBe('a?]0;x?b?2Jc?d?e?f?\ng\th\n');
  });

  it('plainJson: escapes control characters, and parses to the same value', () => {
    const value = { text: `${HOSTILE}\n\u{e0001}`, list: [1, null] };
    for (const indent of [undefined, 2]) {
      const json = plainJson(value, indent);
      expect(json.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}\u2028]/u);
      expect(JSON.parse(json)).toEqual(value);
    }
  });
});
