import { describe, expect, it } from 'vitest';
import { outputText } from './output-text.ts';

describe('outputText', () => {
  it.each(['', 'abc', 'é€😀', 'a\0b', '\ufffd'])('UTF-8 stays text: %j', (text) => {
    expect(outputText(Buffer.from(text), false)).toEqual({ text, encoding: 'utf8' });
  });

  it.each([[[0xff]], [[0x61, 0xe9]], [[0xc3]], [[0x80]], [[0xed, 0xa0, 0x80]]])(
    'other bytes are base64: %j',
    (bytes) => {
      const { text, encoding } = outputText(Buffer.from(bytes), false);
      expect(encoding).toBe('base64');
      expect([...Buffer.from(text, 'base64')]).toEqual(bytes);
    },
  );

  it('output cut within a character: drops the rest of the character', () => {
    const bytes = Buffer.from('aé€😀');
    const texts = Array.from({ length: bytes.length + 1 }, (_, end) => outputText(bytes.subarray(0, end), true));
    expect(texts.map(({ encoding }) => encoding)).toEqual(texts.map(() => 'utf8'));
    expect(texts.map(({ text }) => text).join()).toBe(',a,a,aé,aé,aé,aé€,aé€,aé€,aé€,aé€😀');
  });

  it('output cut, but not text: base64', () => {
    expect(outputText(Buffer.from([0xff, 0xc3]), true).encoding).toBe('base64');
    expect(outputText(Buffer.from([0x61, 0xff]), true).encoding).toBe('base64');
  });
});
