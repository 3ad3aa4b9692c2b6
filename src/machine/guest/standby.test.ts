import { type Duplex, duplexPair } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { ConnectedGuest } from './connected-guest.ts';
import type { GuestInfo } from './guest.ts';
import { STANDBY_GAP_MS } from './standby.ts';

/** An agent that accepts each connection, and answers the first request on it. */
function world(answer: (line: string, end: Duplex, nth: number) => void = reply) {
  const clock = new FakeClock();
  const ends: Duplex[] = [];
  const requests: string[] = [];
  const dial = (): Duplex => {
    const [ours, theirs] = duplexPair();
    const nth = ends.push(theirs) - 1;
    theirs.write(`OK ${nth}\n`);
    theirs.on('error', () => undefined);
    theirs.on('data', (bytes: Buffer) => {
      requests.push(`${nth}:${JSON.parse(bytes.toString()).op}`);
      answer(bytes.toString(), theirs, nth);
    });
    return ours;
  };
  const guest = new ConnectedGuest({ dial, clock, info: {} as GuestInfo, drop: () => undefined });
  return { guest, clock, ends, requests };
}

function reply(_line: string, end: Duplex): void {
  end.write('{"ok":true}\n');
}

const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};

describe('ConnectedGuest.expectUpdate', () => {
  it('the next update uses the open connection, and only the next one', async () => {
    const { guest, ends, requests } = world();
    guest.expectUpdate();
    guest.expectUpdate();
    await settled();
    expect(ends).toHaveLength(1);
    await guest.update({});
    await guest.update({});
    expect(requests).toEqual(['0:update', '1:update']);
  });

  it('a connection that the guest ends is renewed, at most once per gap', async () => {
    const { guest, ends, requests, clock } = world();
    guest.expectUpdate();
    await settled();
    ends[0]?.end();
    await settled();
    clock.advance(STANDBY_GAP_MS - 1);
    await settled();
    expect(ends).toHaveLength(1);
    clock.advance(1);
    await settled();
    expect(ends).toHaveLength(2);
    await guest.update({});
    expect(requests).toEqual(['1:update']);
  });

  it('an update that loses its connection before the answer is sent again on a new one', async () => {
    const { guest, requests } = world((line, end, nth) => (nth === 0 ? void end.destroy() : reply(line, end)));
    guest.expectUpdate();
    await settled();
    await guest.update({});
    expect(requests).toEqual(['0:update', '1:update']);
  });

  it('an update that the guest refuses fails, without a second try', async () => {
    const { guest, requests } = world((_line, end) => {
      end.write('{"ok":false,"code":"guest_failed","message":"no"}\n');
    });
    guest.expectUpdate();
    await settled();
    await expect(guest.update({})).rejects.toMatchObject({ code: 'guest_failed' });
    expect(requests).toEqual(['0:update']);
  });

  it('a guest that sends more than the channel’s answer loses the connection', async () => {
    const { guest, ends, requests } = world();
    guest.expectUpdate();
    await settled();
    ends[0]?.write(Buffer.alloc(100, 'x'));
    await settled();
    expect(ends[0]?.readableEnded || ends[0]?.destroyed).toBe(true);
    await guest.update({});
    expect(requests).toEqual(['1:update']);
  });

  it.each<[string, (guest: ConnectedGuest) => void]>([
    ['suspend', (guest) => guest.suspend()],
    ['close', (guest) => guest.close()],
  ])('%s: ends the connection, and opens no other', async (_name, stop) => {
    const { guest, ends, clock } = world();
    guest.expectUpdate();
    await settled();
    stop(guest);
    guest.expectUpdate();
    clock.advance(10 * STANDBY_GAP_MS);
    await settled();
    expect(ends).toHaveLength(1);
    expect(ends[0]?.readableEnded || ends[0]?.destroyed).toBe(true);
  });
});
