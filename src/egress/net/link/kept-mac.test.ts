import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { silentLog } from '../../../base/log.ts';
import type { Link } from '../netlink/rtnetlink-link.ts';
import { keepMac } from './kept-mac.ts';

const MAC = 'aa:fd:00:00:00:01';
const OTHER = 'd6:d2:98:8e:54:e5';

function host() {
  const clock = new FakeClock();
  const state = { mac: MAC, isThere: true, changes: 0 };
  const links = {
    find: () => (state.isThere ? ({ name: 'nv-a', mac: state.mac } as Link) : undefined),
    change: (_: number, { mac = '' }: { mac?: string }) => {
      state.mac = mac;
      state.changes += 1;
    },
  };
  const stop = keepMac({ links, clock, log: silentLog }, 7, MAC);
  return { clock, state, stop };
}

describe('keepMac', () => {
  it('sets the MAC again, as often as another program changes it', () => {
    const { clock, state } = host();
    for (const waitMs of [5, 100, 1_000]) {
      state.mac = OTHER;
      clock.advance(waitMs);
      expect(state.mac).toBe(MAC);
    }
    expect(state.changes).toBe(3);
  });

  it('changes nothing if the MAC is right or the link is elsewhere, and ends', () => {
    const { clock, state, stop } = host();
    clock.advance(10_000);
    const late = host();
    late.state.isThere = false;
    late.state.mac = OTHER;
    late.clock.advance(10_000);
    stop();
    const stopped = host();
    stopped.stop();
    stopped.state.mac = OTHER;
    stopped.clock.advance(10_000);
    expect([state, late.state, stopped.state].map(({ changes }) => changes)).toEqual([0, 0, 0]);
  });
});
