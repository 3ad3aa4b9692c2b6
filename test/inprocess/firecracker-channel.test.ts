/** The relay between a channel and Firecracker, on real sockets with a fake clock. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ChannelLimits } from '../../src/base/channel.ts';
import { FakeClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { MIB } from '../../src/base/units.ts';
import type { ChannelRelay } from '../../src/machine/vmm/firecracker/channel/relay.ts';
import { RelayHost } from '../../src/machine/vmm/firecracker/channel/relay-host.ts';
import { PIECE_BYTES_MAX } from '../../src/machine/vmm/firecracker/channel/relay-socket.ts';
import { dialGuest, listenForGuestPort, readAll, readBytes } from '../support/channel.ts';
import { relayOnThisThread } from '../support/relay.ts';

const PATIENT = { timeout: 30_000 };

let dir: string;
let channelPath: string;
let clock: FakeClock;
let host: RelayHost;
let relay: ChannelRelay;
let device: Server;
/** Connections to Firecracker, each with its first line. */
let asked: { readonly socket: Socket; readonly line: string }[];
/** Firecracker's answer; `null` for none. */
let answer: string | null;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-relay-'));
  channelPath = join(dir, 'v');
  clock = new FakeClock();
  host = new RelayHost(silentLog, clock, relayOnThisThread(clock));
  asked = [];
  answer = 'OK 77\n';
});
afterEach(async () => {
  await relay.close();
  for (const { socket } of asked) socket.destroy();
  device?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** A relay, and a stand-in for Firecracker behind it. */
async function open(limits: ChannelLimits = {}): Promise<void> {
  relay = host.open(channelPath, limits);
  await relay.prepare();
  device = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => socket.destroy());
    // Firecracker accepts the line of one read only.
    socket.once('data', (bytes: Buffer) => {
      socket.pause();
      asked.push({ socket, line: bytes.toString() });
      if (answer === null) socket.end();
      else socket.write(answer);
    });
  });
  device.listen(relay.innerPath);
  await once(device, 'listening');
  await relay.connect();
}

async function dial(port = 5000): Promise<{ host: Socket; guest: Socket }> {
  const host = await dialGuest(channelPath, port);
  const guest = asked.at(-1)?.socket;
  if (host === null || guest === undefined) throw new Error('the relay has not answered');
  return { host, guest };
}

const isOver = async (socket: Socket): Promise<boolean> => {
  socket.resume();
  if (!socket.readableEnded && !socket.destroyed) await Promise.race([once(socket, 'end'), once(socket, 'close')]);
  return true;
};

describe('ChannelRelay', () => {
  it('connect: relays bytes and ends of input both ways, and does not count handshake lines', async () => {
    await open();
    const { host, guest } = await dial();
    expect(asked.map(({ line }) => line)).toEqual(['CONNECT 5000\n']);
    const [there, back] = [randomBytes(3 * MIB), randomBytes(2 * MIB)];
    host.end(there);
    guest.end(back);
    // `readAll` closes the socket, and drops data that is still to be sent.
    const [came, returned] = await Promise.all([readBytes(guest, there.length), readBytes(host, back.length)]);
    expect(came.equals(there)).toBe(true);
    expect(returned.equals(back)).toBe(true);
    for (const socket of [guest, host]) expect(await isOver(socket)).toBe(true);
    await expect
      .poll(() => relay.stats(), PATIENT)
      .toMatchObject({
        bytesHostToGuest: there.length,
        bytesGuestToHost: back.length,
        connectionsOpened: 1,
        connectionsOpen: 0,
        connectionsRefused: 0,
        throttledMsHostToGuest: 0,
        throttledMsGuestToHost: 0,
      });
  });

  it('connect: joins a line that arrives in pieces, and forwards the bytes after it separately', async () => {
    await open();
    const host = connect(channelPath);
    await once(host, 'connect');
    host.write('CONN');
    await new Promise((resolve) => setImmediate(resolve));
    host.write('ECT 7\nfirst');
    await expect.poll(() => asked.map(({ line }) => line), PATIENT).toEqual(['CONNECT 7\n']);
    const [{ socket } = { socket: host }] = asked;
    expect((await readBytes(socket, 5)).toString()).toBe('first');
    expect((await readBytes(host, 6)).toString()).toBe('OK 77\n');
    host.destroy();
  });

  it('connect: refuses a port that the guest refuses', async () => {
    await open();
    answer = null;
    expect(await dialGuest(channelPath, 1)).toBeNull();
    expect(await relay.stats()).toMatchObject({ connectionsOpened: 0, connectionsRefused: 1 });
  });

  it('connect: closes a client that sends no line in time, or one too long', async () => {
    await open();
    const [silent, wordy] = [connect(channelPath), connect(channelPath)];
    await Promise.all([silent, wordy].map((socket) => once(socket, 'connect')));
    wordy.write('x'.repeat(64));
    expect(await isOver(wordy)).toBe(true);
    expect(silent.readableEnded).toBe(false);
    clock.advance(5_000);
    expect(await isOver(silent)).toBe(true);
    expect(asked).toEqual([]);
  });

  it('connect: a guest that does not answer holds a client no longer than the timeout', async () => {
    await open();
    answer = '';
    const [patient, gone] = [connect(channelPath), connect(channelPath)];
    for (const socket of [patient, gone]) socket.write('CONNECT 5000\n');
    await expect.poll(() => asked.length).toBe(2);
    gone.destroy();
    expect(patient.readableEnded).toBe(false);
    clock.advance(5_000);
    expect(await isOver(patient)).toBe(true);
    for (const { socket } of asked) expect(await isOver(socket)).toBe(true);
    await expect.poll(() => relay.stats()).toMatchObject({ connectionsOpened: 0, connectionsRefused: 2 });
  });

  it('connect: a receiver that does not read slows only its own sender', async () => {
    await open();
    const [slow, other] = [await dial(), await dial()];
    const sent = randomBytes(8 * MIB);
    slow.host.write(sent);
    other.host.end('quick');
    expect((await readAll(other.guest)).toString()).toBe('quick');
    // More bytes than the buffers of two sockets and two streams hold.
    await expect.poll(() => slow.host.writableLength, PATIENT).toBeGreaterThan(4 * MIB);
    expect((await relay.stats()).bytesHostToGuest).toBeLessThan(4 * MIB);
    expect((await readBytes(slow.guest, sent.length)).equals(sent)).toBe(true);
  });

  it('connect: a connection that breaks on one side ends on the other', async () => {
    await open();
    const one = await dial();
    one.guest.destroy();
    expect(await isOver(one.host)).toBe(true);
    const two = await dial();
    two.host.destroy();
    expect(await isOver(two.guest)).toBe(true);
  });

  it('prepare: a guest reaches a host listener that existed before', async () => {
    const port = await listenForGuestPort(channelPath, 2000);
    await open();
    const guest = connect({ path: `${relay.innerPath}_2000`, allowHalfOpen: true });
    guest.end('ping');
    const host = await port.accept();
    expect((await readAll(host)).toString()).toBe('ping');
    host.end('pong');
    expect((await readAll(guest)).toString()).toBe('pong');
    await port.close();
    const refused = connect(`${relay.innerPath}_2000`);
    expect(await isOver(refused)).toBe(true);
    expect(await relay.stats()).toMatchObject({ connectionsOpened: 1, connectionsRefused: 1 });
    expect(readdirSync(dir).sort()).toEqual(['c', 'c_2000', 'v']);
  });

  it.each(['hostToGuest', 'guestToHost'] as const)(
    'setLimits: %s: all connections share one bucket, and a change applies while they wait',
    async (direction) => {
      const rate = MIB;
      await open({ [`${direction}Bytes`]: { size: MIB, refillPerSecond: rate } });
      const pairs = [await dial(), await dial()];
      const sent = randomBytes(4 * MIB);
      let got = 0;
      for (const { host, guest } of pairs) {
        const [from, to] = direction === 'hostToGuest' ? [host, guest] : [guest, host];
        to.on('data', (bytes: Buffer) => {
          got += bytes.length;
        });
        to.resume();
        from.write(sent);
      }
      const most = (): number => MIB + PIECE_BYTES_MAX + (clock.now() / 1000) * rate;
      await expect.poll(() => got, PATIENT).toBeGreaterThanOrEqual(MIB);
      for (let step = 1; step <= 10; step += 1) {
        expect(got).toBeLessThanOrEqual(most());
        clock.advance(100);
        const due = MIB + step * 0.1 * rate - PIECE_BYTES_MAX;
        await expect.poll(() => got, PATIENT).toBeGreaterThanOrEqual(due);
      }
      expect(got).toBeLessThanOrEqual(most());
      const name = direction === 'hostToGuest' ? 'HostToGuest' : 'GuestToHost';
      const other = direction === 'hostToGuest' ? 'GuestToHost' : 'HostToGuest';
      const stats = await relay.stats();
      expect(stats[`throttledMs${name}`]).toBeGreaterThan(500);
      expect(stats[`throttledMs${name}`]).toBeLessThanOrEqual(1_000);
      expect(stats[`throttledMs${other}`]).toBe(0);
      await relay.setLimits({});
      await expect.poll(() => got, PATIENT).toBe(2 * sent.length);
    },
  );

  it('setLimits: new connections of either side wait for their tokens', async () => {
    const port = await listenForGuestPort(channelPath, 2000);
    await open({ connections: { size: 1, refillPerSecond: 1 } });
    const all = [
      ...Array.from({ length: 3 }, () => connect(`${relay.innerPath}_2000`)),
      ...Array.from({ length: 3 }, () => connect(channelPath)),
    ];
    for (const socket of all) socket.write('CONNECT 6000\n');
    const opened = async (): Promise<number> => (await relay.stats()).connectionsOpened;
    await expect.poll(opened, PATIENT).toBe(1);
    const began = clock.now();
    while ((await opened()) < all.length) {
      clock.advance(100);
      await new Promise((resolve) => setTimeout(resolve, 1));
      expect(await opened()).toBeLessThanOrEqual(2 + (clock.now() - began) / 1000);
    }
    for (const socket of all) socket.destroy();
    await port.close();
  });

  it('setLimits: refuses an invalid limit, and keeps the old ones', async () => {
    await open();
    const wrong = { guestToHostBytes: { size: 0, refillPerSecond: 1 } };
    await expect(relay.setLimits(wrong)).rejects.toMatchObject({ code: 'vm_spec_invalid' });
    const made = () => host.open(channelPath, wrong);
    expect(made).toThrow(expect.objectContaining({ code: 'vm_spec_invalid' }));
    await dial();
  });

  it('disconnect ends all connections, connect allows new ones, close removes all sockets', async () => {
    const port = await listenForGuestPort(channelPath, 2000);
    await open();
    const before = await dial();
    await relay.disconnect();
    await relay.disconnect();
    expect(await isOver(before.host)).toBe(true);
    expect(await isOver(before.guest)).toBe(true);
    expect(readdirSync(dir)).not.toContain('v');
    await relay.connect();
    await dial();
    await relay.close();
    await relay.close();
    // The creator of the directory removes Firecracker's own socket.
    expect(readdirSync(dir).sort()).toEqual(['c', 'v_2000']);
    await port.close();
  });
});
