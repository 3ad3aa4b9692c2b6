import { describe, expect, it } from 'vitest';
import { PENDING_MAX, readTap, TAP, TAP_BYTES, TIMES, TIMES_BYTES } from './latency.ts';

/** Data of one processor with this many packets of the guest, and this many answers. */
function tapOf(started: number, answered: number): DataView {
  const value = new DataView(new ArrayBuffer(TAP_BYTES));
  const peer = TAP.paths + TIMES_BYTES;
  value.setBigUint64(peer + TIMES.started, BigInt(started), true);
  value.setBigUint64(peer + TIMES.answered, BigInt(answered), true);
  return value;
}

describe('readTap', () => {
  it('reports that times may be missing when the table of pending packets is full', () => {
    expect(readTap(tapOf(PENDING_MAX, 0)).mayBeIncomplete).toBe(true);
    expect(readTap(tapOf(9 * PENDING_MAX, 9 * PENDING_MAX - 5)).mayBeIncomplete).toBe(false);
    expect(readTap(tapOf(PENDING_MAX, 0)).paths.peer.unanswered).toBe(PENDING_MAX);
  });
});
