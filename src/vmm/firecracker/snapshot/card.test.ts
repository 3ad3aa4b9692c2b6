import { describe, expect, it } from 'vitest';
import { cardMark, withoutMark } from './card.ts';

const DEVICES = Buffer.from('devices');
const marked = (hasCard: boolean): Buffer => Buffer.concat([DEVICES, cardMark(hasCard)]);

describe('withoutMark', () => {
  it.each([true, false])('gives Firecracker what it has written (a card: %s)', (hasCard) => {
    expect(withoutMark(marked(hasCard), hasCard).equals(DEVICES)).toBe(true);
  });
  it('refuses a VM that is to have what its guest has not, or the reverse, and says what to do', () => {
    const remedy = expect.any(String);
    const code = (is: string) => expect.objectContaining({ code: is, remedy });
    expect(() => withoutMark(marked(true), false)).toThrow(code('snapshot_refused'));
    expect(() => withoutMark(marked(false), true)).toThrow(code('vm_unsupported'));
  });
  it('takes a state of nothing, or of a part of the mark, for one without a card', () => {
    for (const state of [Buffer.alloc(0), cardMark(true).subarray(1)])
      expect(withoutMark(state, false).equals(state)).toBe(true);
  });
});
