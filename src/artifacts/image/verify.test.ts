import { describe, expect, it } from 'vitest';
import { digestBytes } from './verify.ts';

describe('digestBytes', () => {
  it('distinguishes lists that join to the same text', () => {
    expect(digestBytes('ab', 'c')).not.toBe(digestBytes('a', 'bc'));
    expect(digestBytes('ab')).not.toBe(digestBytes('ab', ''));
  });
  it('treats text and bytes alike', () => {
    expect(digestBytes('ab')).toBe(digestBytes(Buffer.from('ab')));
  });
});
