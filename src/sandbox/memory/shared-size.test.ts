import { describe, expect, it } from 'vitest';
import { MIB } from '../../base/units.ts';
import { SHARED_SIZE, type SharedMemory, SharedSizes } from './shared-size.ts';

const memory = (whose: string, grownMib: number, content = 'template'): SharedMemory => ({
  key: `${content} ${whose}`,
  content,
  dataBytes: 170 * MIB,
  sizeBytes: 512 * MIB,
  grownBytes: grownMib * MIB,
});
const noted = (...all: readonly SharedMemory[]): SharedSizes => {
  const sizes = new SharedSizes();
  for (const one of all) sizes.note(one);
  return sizes;
};
const mib = (sizes: SharedSizes, one: SharedMemory): number => sizes.expectedBytes(one) / MIB;

describe('SharedSizes', () => {
  it('at first the data and a little; then a quarter more than its growth, at most the RAM', () => {
    const sizes = new SharedSizes();
    expect(mib(sizes, memory('a', 0))).toBe(202);
    expect(mib(sizes, memory('a', 10))).toBe(202);
    expect(mib(sizes, memory('a', 80))).toBe(270);
    expect(mib(sizes, memory('a', 340))).toBe(512);
  });

  it('estimates a new memory from the growth of the same content, without one hostile group', () => {
    const others = [1, 2, 3, 4].map((n) => memory(`tenant ${n}`, 40));
    expect(mib(noted(...others), memory('new', 0))).toBe(220);
    expect(mib(noted(...others), memory('new', 0, 'other template'))).toBe(202);
    const small = [1, 2, 3].map((n) => memory(`tenant ${n}`, 5));
    expect(mib(noted(...small, memory('hostile', 342)), memory('new', 0))).toBe(202);
  });

  it('remembers the maximum growth of a bounded number of memories', () => {
    const sizes = noted(memory('a', 80), memory('a', 0));
    expect(mib(sizes, memory('a', 0))).toBe(270);
    for (let n = 0; n < SHARED_SIZE.knownMax; n += 1) sizes.note(memory('us', 0, `content ${n}`));
    expect(mib(sizes, memory('a', 0))).toBe(202);
  });
});
