import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { CLONE_SIZE, CloneSizes, expectedOf, type LiveClone, pendingOf } from './clone-size.ts';

const clones = (count: number, ownMib: number | null, sizeMib = 512): LiveClone[] =>
  Array.from({ length: count }, () => ({ ownMib, sizeMib }));

describe('expectedOf', () => {
  it.each([
    ['none', [], 128],
    ['too few, and small', clones(7, 40), 128],
    ['too few, but large', clones(3, 400), 500],
    ['small', clones(8, 40), 64],
    ['some size', clones(8, 100), 125],
    ['unknown', clones(100, null), 128],
    ['small, and one large', [...clones(100, 40), ...clones(1, 16_384, 32_768)], 64],
    ['small, and many large', [...clones(10, 50), ...clones(9, 400)], 269.7],
  ])('expects the estimate for %s live', (_, live, mib) => expect(expectedOf(live)).toBeCloseTo(mib, 1));
});

describe('pendingOf', () => {
  it('sums what each clone lacks, up to its size; larger clones count 0', () => {
    expect(pendingOf(clones(2, 40), 128)).toBe(176);
    expect(pendingOf(clones(2, 400), 128)).toBe(0);
    expect(pendingOf(clones(2, 40, 64), 128)).toBe(48);
    expect(pendingOf(clones(1, null), 128)).toBe(128);
  });
});

describe('CloneSizes', () => {
  it('measures at most once a second, and expects at most the size', () => {
    const clock = new FakeClock();
    let [live, looks] = [clones(8, 100), 0];
    const sizes = new CloneSizes(clock, () => {
      looks += 1;
      return live;
    });
    expect([sizes.expectedMib(512), sizes.expectedMib(96), sizes.pendingMib()]).toEqual([125, 96, 200]);
    live = clones(8, 200);
    clock.advance(CLONE_SIZE.ageMsMax - 1);
    expect(sizes.expectedMib(512)).toBe(125);
    expect(looks).toBe(1);
    clock.advance(1);
    expect(sizes.expectedMib(512)).toBe(250);
  });
});
