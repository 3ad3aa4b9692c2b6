import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeGguf, makeParts, type TestGguf } from '../../../test/support/gguf-models.ts';
import { GGUF_HEADER_BYTES_MAX, parseGguf, readGguf, Truncated } from './gguf.ts';

const parse = (given?: TestGguf) => {
  const file = makeGguf(given);
  return parseGguf(file, file.length);
};

/** The number of tensors is at byte 8, that of keys at byte 16. */
function changed(change: (file: Buffer) => void): Buffer {
  const file = makeGguf();
  change(file);
  return file;
}

describe('parseGguf', () => {
  it('reads the properties of a model', () => {
    expect(parse()).toEqual({
      architecture: 'llama',
      quantization: 'Q4_K_M',
      parameters: 256,
      contextTokens: 2048,
      hasChatTemplate: true,
      split: null,
    });
  });

  it('names the type of most weights if the file’s quantization is unknown', () => {
    expect(parse({ values: { 'general.file_type': 9999 } }).quantization).toBe('F32');
    expect(parse({ values: { 'general.file_type': 9999 }, numbers: 0 }).quantization).toBeNull();
  });

  it('detects which part of a split model a file is', () => {
    const [, second = Buffer.alloc(0)] = makeParts(3);
    expect(parseGguf(second, second.length).split).toEqual({ index: 1, count: 3 });
    expect(() => parse({ values: { 'split.no': 3, 'split.count': 3 } })).toThrow(
      expect.objectContaining({ code: 'model_invalid' }),
    );
  });

  it("refuses counts that a number can't hold exactly", () => {
    for (const key of ['llama.context_length', 'split.count', 'split.no']) {
      const values = { 'split.count': 2, [key]: 2n ** 63n };
      expect(() => parse({ values }), key).toThrow(expect.objectContaining({ code: 'model_invalid' }));
    }
  });

  it('does not show text that is not a word, or is long', () => {
    for (const architecture of ['\u001b[31mx', 'a b', 'x'.repeat(65), '']) {
      expect(parse({ values: { 'general.architecture': architecture } }).architecture).toBeNull();
    }
  });

  it('reports a file whose weights are cut off as incomplete', () => {
    const file = makeGguf();
    expect(() => parseGguf(file, file.length - 1)).toThrow(
      expect.objectContaining({ cause: expect.stringContaining('last 1 bytes are missing') }),
    );
  });

  it('asks for more after every prefix of a header, and never reads beyond it', () => {
    const file = makeGguf();
    const header = file.length - 4 * 256 - 32;
    for (let bytes = 0; bytes < header; bytes += 1) {
      expect(() => parseGguf(file.subarray(0, bytes), file.length)).toThrow(Truncated);
    }
  });

  it.each<[string, Buffer, RegExp]>([
    ['another magic', changed((file) => file.write('GGML')), /begin with GGUF/],
    ['version 1', changed((file) => file.writeUInt32LE(1, 4)), /version 1/],
    ['big-endian numbers', changed((file) => file.writeUInt32BE(3, 4)), /version 50331648/],
    ['too many tensors', changed((file) => file.writeBigUInt64LE(2n ** 63n, 8)), /tensors/],
    ['too many keys', changed((file) => file.writeBigUInt64LE(2n ** 64n - 1n, 16)), /keys/],
    ['an endless key', changed((file) => file.writeBigUInt64LE(2n ** 40n, 24)), /bytes of a key/],
    [
      'a key twice',
      Buffer.concat([
        makeGguf({ numbers: 0 }).subarray(0, 16),
        Buffer.from([2, 0, 0, 0, 0, 0, 0, 0]),
        ...Array(2).fill(Buffer.from([1, 0, 0, 0, 0, 0, 0, 0, 97, 0, 0, 0, 0, 5])),
      ]),
      /a key twice/,
    ],
    ['an alignment of 0', makeGguf({ values: { 'general.alignment': 0 } }), /alignment is not valid/],
  ])('refuses %s', (_what, file, why) => {
    expect(() => parseGguf(file, file.length)).toThrow(
      expect.objectContaining({ code: 'model_invalid', cause: expect.stringMatching(why) }),
    );
  });
});

describe('readGguf', () => {
  let dir: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-gguf-'));
  });
  afterAll(() => rmSync(dir, { recursive: true }));
  const file = (content: Uint8Array): string => {
    const path = join(dir, 'model.gguf');
    writeFileSync(path, content);
    return path;
  };

  it('continues if the vocabulary is larger than the first read', async () => {
    const tokens = Array.from({ length: 60_000 }, (_, index) => `token ${index}`);
    const path = file(makeGguf({ values: { 'tokenizer.ggml.tokens': tokens } }));
    expect(await readGguf(path)).toMatchObject({ architecture: 'llama', parameters: 256 });
  });

  it('refuses a file that ends in its header, a missing file, and a directory', async () => {
    const path = file(makeGguf().subarray(0, 100));
    await expect(readGguf(path, 'x:1')).rejects.toMatchObject({
      code: 'model_invalid',
      message: 'x:1 is not a usable GGUF file',
      cause: 'it ends inside its header',
    });
    await expect(readGguf(join(dir, 'none'))).rejects.toMatchObject({ code: 'model_missing' });
    await expect(readGguf(dir)).rejects.toMatchObject({ code: 'model_invalid' });
  });

  it('refuses a header without end', async () => {
    const head = makeGguf().subarray(0, 24);
    const key = Buffer.from([1, 0, 0, 0, 0, 0, 0, 0, 97, 8, 0, 0, 0]);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(GGUF_HEADER_BYTES_MAX));
    const path = file(Buffer.concat([head, key, length]));
    const { truncateSync } = await import('node:fs');
    truncateSync(path, 2 * GGUF_HEADER_BYTES_MAX);
    await expect(readGguf(path)).rejects.toMatchObject({ cause: 'its header is too large' });
  });
});
