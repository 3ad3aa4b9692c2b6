import { describe, expect, it } from 'vitest';
import { MIB } from '../../base/units.ts';
import { ByteTail } from './tail.ts';

describe('ByteTail', () => {
  it('after: returns the kept bytes after a position, like a plain string', () => {
    const size = 7;
    const tail = new ByteTail(size);
    let all = '';
    for (let n = 0; n < 40; n += 1) {
      const text = 'abcdefghijklmnopqrstuvwxyz'.slice(0, (n * 5) % 11);
      tail.push(Buffer.from(text));
      all += text;
      expect(tail.total).toBe(all.length);
      expect(tail.text()).toBe(all.slice(-size));
      for (const position of [0, all.length - 3, all.length, all.length + 5]) {
        const from = Math.max(position, all.length - size, 0);
        expect(tail.after(position).toString()).toBe(all.slice(from));
      }
    }
  });

  it('uses memory for what was written, not for the maximum', () => {
    const before = process.memoryUsage().arrayBuffers;
    const tails = Array.from({ length: 100 }, () => new ByteTail(MIB));
    for (const tail of tails) tail.push(Buffer.alloc(1_000, 'a'));
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(MIB);
    expect(tails.every((tail) => tail.text().length === 1_000)).toBe(true);
  });

  it('onWrite: reports each write until stopped; a listener that throws does not stop others', () => {
    const tail = new ByteTail(4);
    const told: number[] = [];
    tail.onWrite(() => {
      throw new Error('of a reader');
    });
    const stop = tail.onWrite(() => told.push(tail.total));
    tail.push(Buffer.from('ab'));
    tail.push(Buffer.from('c'));
    stop();
    tail.push(Buffer.from('d'));
    expect(told).toEqual([2, 3]);
  });
});
