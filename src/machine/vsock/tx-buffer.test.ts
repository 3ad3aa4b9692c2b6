import { describe, expect, it } from 'vitest';
import { ChunkPool, TxBuffer } from './tx-buffer.ts';

const range = (from: number, count: number): Uint8Array =>
  Uint8Array.from({ length: count }, (_, index) => (from + index) & 0xff);

describe('TxBuffer', () => {
  it('returns bytes in order, for any sizes', () => {
    const buffer = new TxBuffer(100_000, new ChunkPool());
    let pushed = 0;
    let taken = 0;
    for (let step = 1; step < 400; step += 1) {
      const size = (step * 7919) % 3000;
      if (buffer.length + size <= 100_000) {
        buffer.push(range(pushed, size));
        pushed += size;
      }
      const head = buffer.head();
      const some = Math.min(head.length, (step * 104_729) % 4000);
      expect(head.subarray(0, some)).toEqual(range(taken, some));
      buffer.consume(some);
      taken += some;
      expect(buffer.length).toBe(pushed - taken);
    }
  });

  it('has an empty head when it is empty, also after a full chunk', () => {
    const buffer = new TxBuffer(1 << 20, new ChunkPool());
    expect(buffer.head()).toHaveLength(0);
    buffer.push(new Uint8Array(16 * 1024));
    buffer.consume(16 * 1024);
    expect(buffer.head()).toHaveLength(0);
    buffer.push(range(5, 3));
    expect(buffer.head()).toEqual(range(5, 3));
  });

  it('refuses to hold more than the window: credit failed to prevent that', () => {
    const buffer = new TxBuffer(10, new ChunkPool());
    buffer.push(new Uint8Array(10));
    expect(() => buffer.push(new Uint8Array(1))).toThrow('credit bounds');
    expect(() => buffer.consume(11)).toThrow('only held bytes');
  });
});
