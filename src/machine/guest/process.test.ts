import { type Duplex, duplexPair } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { EXIT } from '../../../test/support/process-exit.ts';
import { FakeClock } from '../../base/clock.ts';
import { FRAME, frameHeader } from './framing.ts';
import type { GuestInfo } from './guest.ts';
import { GUEST_LIMITS } from './limits.ts';
import { connectGuest } from './remote.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A guest that starts the program, and then hangs. */
function world() {
  const clock = new FakeClock();
  const guests: Duplex[] = [];
  const dial = (): Duplex => {
    const [host, guest] = duplexPair();
    guest.resume();
    guest.write('OK 7\n{"ok":true,"pid":5,"warm":false}\n');
    guests.push(guest);
    return host;
  };
  const guest = connectGuest({ dial, clock, info: {} as GuestInfo });
  /** Lets time pass; returns whether the exit has arrived. */
  const pass = async (ms: number): Promise<void> => {
    clock.advance(ms);
    for (let n = 0; n < 5; n += 1) await turn();
  };
  return { guest, guests, pass };
}

const LIMIT_MS = 20_000;

describe('GuestProcess', () => {
  it('timeoutMs: the host enforces it when the guest hangs, and drops the connection', async () => {
    const { guest, guests, pass } = world();
    const process = await guest.exec({ argv: ['sleep', '999'], timeoutMs: LIMIT_MS });
    process.stdout.resume();
    process.stderr.resume();
    let exit: unknown = null;
    void process.exit.then((told) => {
      exit = told;
    });
    await pass(LIMIT_MS + GUEST_LIMITS.overdueMs - 1);
    expect(exit).toBeNull();
    await pass(1);
    expect(exit).toMatchObject({ timedOut: true, exitCode: null, signal: 'SIGKILL' });
    expect(guests[0]?.destroyed || guests[0]?.readableEnded).toBe(true);
  });

  it('timeoutMs: an exit behind unread output is not overdue', async () => {
    const { guest, guests, pass } = world();
    const process = await guest.exec({ argv: ['yes'], timeoutMs: LIMIT_MS });
    const payload = Buffer.alloc(GUEST_LIMITS.framePayloadBytesMax);
    for (let n = 0; n < 8; n += 1) {
      guests[0]?.write(Buffer.concat([frameHeader(FRAME.stdout, payload.length), payload]));
    }
    const end = { type: 'exit', ...EXIT, durationMs: 7 };
    const frame = Buffer.from(JSON.stringify(end));
    guests[0]?.write(Buffer.concat([frameHeader(FRAME.control, frame.length), frame]));
    await turn();
    await pass(LIMIT_MS + GUEST_LIMITS.overdueMs);
    process.stdout.resume();
    process.stderr.resume();
    expect(await process.exit).toMatchObject({ exitCode: 0, timedOut: false, durationMs: 7 });
  });

  it('no timeoutMs: the guest may hang forever', async () => {
    const { guest, pass } = world();
    const process = await guest.exec({ argv: ['sleep', '999'] });
    let isOver = false;
    const over = (): void => {
      isOver = true;
    };
    process.exit.then(over, over);
    await pass(1e9);
    expect(isOver).toBe(false);
    guest.close();
    await expect(process.exit).rejects.toMatchObject({ code: 'connection_lost' });
  });

  it('logs: an agent of an older version answers with a remedy', async () => {
    const dial = (): Duplex => {
      const [host, guest] = duplexPair();
      guest.resume();
      guest.write('OK 7\n{"ok":false,"code":"invalid_request","message":"unknown operation \'logs\'"}\n');
      return host;
    };
    const guest = connectGuest({ dial, clock: new FakeClock(), info: {} as GuestInfo });
    await expect(guest.logs(5, null)).rejects.toMatchObject({
      code: 'invalid_request',
      remedy: expect.stringContaining('new sandbox'),
    });
  });
});
