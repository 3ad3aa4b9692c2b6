import { duplexPair } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { FRAME, frameHeader } from './framing.ts';
import type { FileEntry, GuestInfo } from './guest.ts';
import { GUEST_LIMITS } from './limits.ts';
import { connectGuest } from './remote.ts';

const ENTRY = {
  name: 'a',
  path: '/d/a',
  type: 'file',
  bytes: 0,
  mode: 0o644,
  owner: 'user',
  group: 'user',
  modifiedMs: 0,
  symlinkTarget: null,
} satisfies FileEntry;

/** Lists a directory of a guest that answers with these lines. */
async function listed(lines: Iterable<object>): Promise<readonly FileEntry[]> {
  const dial = () => {
    const [host, guest] = duplexPair();
    guest.resume();
    guest.on('error', () => undefined);
    guest.write('OK 7\n{"ok":true}\n');
    for (const line of lines) {
      const payload = Buffer.from(`${JSON.stringify(line)}\n`);
      guest.write(Buffer.concat([frameHeader(FRAME.stdout, payload.length), payload]));
    }
    guest.write(frameHeader(FRAME.stdout, 0));
    return host;
  };
  const guest = connectGuest({ dial, clock: new FakeClock(), info: {} as GuestInfo });
  return await guest.files.list('/d');
}

describe('list, against a hostile guest', () => {
  it('accepts the longest names and paths of Linux, with any bytes', async () => {
    const entries = [
      { ...ENTRY, name: 'x'.repeat(255) },
      { ...ENTRY, name: '\udcff'.repeat(255), path: `/${'\udcff'.repeat(4095)}` },
      { ...ENTRY, symlinkTarget: '/'.repeat(4096) },
    ];
    expect(await listed(entries)).toEqual(entries);
  });

  it.each([
    ['a name of 256 bytes', { name: 'x'.repeat(256) }],
    ['a name of 128 characters, 256 bytes', { name: 'ü'.repeat(128) }],
    ['a path of 4097 bytes', { path: `/${'x'.repeat(4096)}` }],
    ['a link target of 4097 bytes', { symlinkTarget: 'x'.repeat(4097) }],
  ])('refuses %s', async (_name, part) => {
    const [field] = Object.keys(part);
    await expect(listed([{ ...ENTRY, ...part }])).rejects.toMatchObject({
      code: 'protocol_error',
      message: expect.stringContaining(`${field}: longer than`),
    });
  });

  it('refuses entries beyond the total size limit, and suggests an archive', async () => {
    const line = { ...ENTRY, path: `/${'x'.repeat(4000)}` };
    const lineBytes = JSON.stringify(line).length + 1;
    const fits = Math.floor(GUEST_LIMITS.listBytesMax / lineBytes);
    expect(await listed(Array<object>(fits).fill(line))).toHaveLength(fits);
    await expect(listed(Array<object>(fits + 1).fill(line))).rejects.toMatchObject({
      code: 'too_large',
      message: expect.stringContaining('8 MiB'),
      remedy: expect.stringContaining('archive'),
    });
  });

  it('refuses more entries than the limit of one listing, and suggests an archive', async () => {
    await expect(listed([ENTRY, { cut: 20_000 }])).rejects.toMatchObject({
      code: 'too_large',
      remedy: expect.stringContaining('archive'),
    });
  });
});

it('a watch reads no more events a second than its limit, from a guest that floods', async () => {
  const clock = new FakeClock();
  const payload = Buffer.from('{"type":"create","name":"a"}');
  const chunk = Buffer.concat(Array(1000).fill(Buffer.concat([frameHeader(FRAME.control, payload.length), payload])));
  const limit = GUEST_LIMITS.watchEventsPerSecondMax;
  const chunks = (3 * limit) / 1000;
  const dial = () => {
    const [host, guest] = duplexPair();
    guest.resume();
    guest.on('error', () => undefined);
    guest.write('OK 7\n{"ok":true}\n');
    for (let i = 0; i < chunks; i += 1) guest.write(chunk);
    return host;
  };
  let count = 0;
  const guest = connectGuest({ dial, clock, info: {} as GuestInfo });
  const { stop } = await guest.files.watch('/d', {}, () => {
    count += 1;
  });
  const settled = async (): Promise<number> => {
    for (let turns = 0; turns < 10 * chunks; turns += 1) await new Promise(setImmediate);
    return count;
  };
  const counts = [await settled()];
  clock.advance(1000);
  counts.push(await settled());
  clock.advance(1000);
  counts.push(await settled());
  expect(counts).toEqual([limit, 2 * limit, 3 * limit]);
  stop();
});
