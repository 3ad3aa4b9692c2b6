import { describe, expect, it } from 'vitest';
import { readVerdict } from './builder.ts';

const read = (line: string): unknown => {
  try {
    return readVerdict(line, 'the layer x', 8192);
  } catch (error) {
    return error;
  }
};

describe('readVerdict', () => {
  it('readVerdict: accepts a length in whole blocks that the disk has', () => {
    expect(read('{"bytes": 8192}\n')).toBe(8192);
  });

  it.each([
    '',
    'x',
    '{}',
    '[]',
    'null',
    '{"bytes":0}',
    '{"bytes":4097}',
    '{"bytes":12288}',
    '{"bytes":1e400}',
    '{"code":"x","detail":"y"}',
    `{"bytes":4096,"x":"${'x'.repeat(20_000)}"}`,
  ])('readVerdict: refuses %j', (line) => {
    expect(read(line)).toMatchObject({ code: 'build_failed' });
  });

  it('readVerdict: a failure of the layer has its own code, and a bounded text', () => {
    expect(read('{"code":"too_large","detail":"a"}')).toMatchObject({ code: 'image_too_large', cause: 'a' });
    expect(read(`{"code":"invalid","detail":"${'x'.repeat(5000)}"}`)).toMatchObject({
      code: 'image_invalid',
      cause: 'x'.repeat(1000),
    });
    expect(read('{"code":"digest","detail":"a"}')).toMatchObject({ code: 'image_invalid' });
  });
});
