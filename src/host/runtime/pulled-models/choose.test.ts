import { describe, expect, it } from 'vitest';
import { chooseModel, stemOf } from './choose.ts';

const file = (name: string | null) => ({ name, bytes: 1024 });
const choose = (names: readonly (string | null)[], wanted?: string) =>
  chooseModel(names.map(file), wanted, 'here').map(({ name }) => name);
const parts = (stem: string, count: number) =>
  Array.from({ length: count }, (_, i) => `${stem}-0000${i + 1}-of-0000${count}.gguf`);

describe('chooseModel', () => {
  it('takes the only model, with all its parts in order', () => {
    expect(choose(['a.gguf', 'mmproj-a.gguf'])).toEqual(['a.gguf']);
    expect(choose(parts('a', 3).toReversed())).toEqual(parts('a', 3));
    // Docker's models have no names.
    expect(choose([null, null])).toEqual([null, null]);
  });

  it('takes the named model: by its name, its stem, or a unique part of its name', () => {
    const names = ['a-Q4_K.gguf', 'a-Q4_K_M.gguf', 'b-Q8_0.gguf', ...parts('big', 2)];
    expect(choose(names, 'a-Q4_K.gguf')).toEqual(['a-Q4_K.gguf']);
    expect(choose(names, 'A-q4_k')).toEqual(['a-Q4_K.gguf']);
    expect(choose(names, 'q8')).toEqual(['b-Q8_0.gguf']);
    expect(choose(names, 'big')).toEqual(parts('big', 2));
  });

  it('does not guess between several models, without one, or for an incomplete one', () => {
    expect(() => choose(['a.gguf', 'b.gguf'])).toThrow(
      expect.objectContaining({
        code: 'model_ambiguous',
        cause: 'a.gguf (1.0 KiB), b.gguf (1.0 KiB)',
        remedy: expect.stringContaining('--file a'),
      }),
    );
    expect(() => choose(['x/a.gguf', 'y/a.gguf'], 'a')).toThrow(/here has 2 models/);
    expect(() => choose(['x.gguf', null])).toThrow(/2 models/);
    expect(() => choose([])).toThrow(expect.objectContaining({ code: 'model_not_found' }));
    expect(() => choose(['a.gguf'], 'c')).toThrow(/it has a\.gguf/);
    expect(() => choose(parts('a', 3).slice(1))).toThrow(
      expect.objectContaining({ code: 'model_invalid', cause: 'part 1 of 3 is missing' }),
    );
    expect(() => choose(parts('a', 3).slice(0, 2))).toThrow(/a in here is not complete/);
  });
});

it('stemOf: derives a model’s name from its file', () => {
  expect(stemOf('/x/Qwen3-8B-Q4_K_M-00001-of-00003.gguf')).toBe('Qwen3-8B-Q4_K_M');
  expect(stemOf('a.GGUF')).toBe('a');
});
