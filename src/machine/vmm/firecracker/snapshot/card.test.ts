import { describe, expect, it } from 'vitest';
import { cardMark, withoutMark } from './card.ts';

const DEVICES = Buffer.from('devices');
const marked = (hasCard: boolean): Buffer => Buffer.concat([DEVICES, cardMark(hasCard)]);

describe('withoutMark', () => {
  it.each([true, false])('returns Firecracker’s own state (NIC: %s)', (hasCard) => {
    expect(withoutMark(marked(hasCard), hasCard).equals(DEVICES)).toBe(true);
  });
  it('refuses a VM whose NIC differs from the snapshot, with a remedy', () => {
    const remedy = expect.any(String);
    const code = (is: string) => expect.objectContaining({ code: is, remedy });
    expect(() => withoutMark(marked(true), false)).toThrow(code('snapshot_refused'));
    expect(() => withoutMark(marked(false), true)).toThrow(code('vm_unsupported'));
  });
  it('treats an empty state, or a part of the mark, as a snapshot without a NIC', () => {
    for (const state of [Buffer.alloc(0), cardMark(true).subarray(1)])
      expect(withoutMark(state, false).equals(state)).toBe(true);
  });
});
