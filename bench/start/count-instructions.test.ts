import { expect, it } from 'vitest';
import { parseCounts } from './count-instructions.ts';

/**
 * The total, then the counts at the beginning of firmware, kernel, init and agent, low and high addresses each; then
 * the stage.
 */
const file = (words: readonly number[], stage: number): Buffer => {
  const bytes = Buffer.alloc(8 * 11);
  for (const [index, word] of [...words, stage].entries()) bytes.writeBigUInt64LE(BigInt(word), index * 8);
  return bytes;
};

it('parseCounts: each stage lasts until the beginning of the next one', () => {
  const words = [100, 900, 0, 0, 10, 0, 10, 500, 15, 520];
  expect(parseCounts(file(words, 3))).toEqual({
    firmware: { user: 10, kernel: 0 },
    kernel: { user: 0, kernel: 500 },
    init: { user: 5, kernel: 20 },
    agent: { user: 85, kernel: 380 },
  });
});

it('parseCounts: a boot that did not reach the agent is an error', () => {
  expect(() => parseCounts(file(new Array(10).fill(0), 1))).toThrow('the boot ended in stage kernel');
});
