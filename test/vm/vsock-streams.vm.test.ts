/** What only Linux's own vsock can show of our device: many streams at once, each whole and in order. */
import { createHash, randomBytes } from 'node:crypto';
import { connect, createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { VsockBench } from '../../bench/channel/vsock.ts';
import { MIB } from '../../src/base/units.ts';
import { dialGuest } from '../support/channel.ts';
import type { ParityFiles } from '../support/driver-parity.ts';
import { requiresEchoGuest } from '../support/echo-image.ts';

const GUEST_PORT = 5000;
const ANSWER = { timeout: 60_000 };

for (const [name, backend] of [
  ['vsock device', 'neurovisor'],
  ['vsock device that copies private memory', 'copied'],
] as const)
  requiresEchoGuest().describe(`${name} and a Linux guest`, (files) => streams(files, backend));

function streams({ kernelPath }: ParityFiles, backend: 'neurovisor' | 'copied'): void {
  let bench: VsockBench;
  beforeAll(async () => {
    bench = await VsockBench.open({ kernelPath, backend });
  });
  afterAll(() => bench?.close());

  const dial = async (line: string): Promise<Socket> => {
    const socket = await dialGuest(bench.channelPath, GUEST_PORT);
    if (socket === null) throw new Error('the guest refused');
    socket.write(line);
    return socket;
  };

  it('50 streams at once: each echoes its own bytes in order, up to the half close', async () => {
    const one = async (): Promise<void> => {
      const socket = await dial('ECHO\n');
      const sent = randomBytes(MIB / 2);
      socket.end(sent);
      const back = createHash('sha256');
      let count = 0;
      for await (const bytes of socket) {
        // The guest says "go" first.
        back.update(count === 0 ? (bytes as Buffer).subarray(2) : (bytes as Buffer));
        count += (bytes as Buffer).length;
      }
      expect(count).toBe(sent.length + 2);
      expect(back.digest('hex')).toBe(createHash('sha256').update(sent).digest('hex'));
    };
    await Promise.all(Array.from({ length: 50 }, one));
  });

  it('a slow reader gets all of 16 MiB while other streams are served', async () => {
    const slow = await dial('SOURCE 16\n');
    slow.pause();
    const quick = await dial('SOURCE 16\n');
    let got = 0;
    for await (const bytes of quick) got += (bytes as Buffer).length;
    expect(got).toBe(16 * MIB);
    got = 0;
    for await (const bytes of slow) got += (bytes as Buffer).length;
    expect(got).toBe(16 * MIB);
  });

  it('a guest reaches a port with a listener, and gets ECONNRESET at a port without one', async () => {
    let heard = '';
    const server = createServer((socket) => socket.on('data', (bytes) => (heard += String(bytes))));
    await new Promise<void>((resolve) => server.listen(`${bench.channelPath}_1024`, resolve));
    try {
      for (const [port, answer] of [
        [1024, 'ok'],
        [1025, '104'],
      ] as const) {
        const socket = await dial(`DIAL ${port}\n`);
        const [bytes] = await new Promise<[Buffer]>((resolve) => socket.once('data', (first) => resolve([first])));
        expect(String(bytes)).toBe(answer);
        socket.destroy();
      }
      await expect.poll(() => heard).toBe('hello');
    } finally {
      server.close();
    }
  });

  it('after 500 connections opened and dropped at once, the guest still answers', async () => {
    for (let round = 0; round < 10; round += 1) {
      const sockets = Array.from({ length: 50 }, () => connect(bench.channelPath));
      for (const socket of sockets) {
        socket.on('error', () => socket.destroy());
        socket.write(`CONNECT ${GUEST_PORT}\nECHO\n`);
        setImmediate(() => socket.destroy());
      }
      await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.once('close', resolve))));
    }
    // Its backlog may still be full of dropped connections; until it has accepted them it refuses new ones.
    let socket: Socket | null = null;
    await expect.poll(async () => (socket ??= await dialGuest(bench.channelPath, GUEST_PORT)), ANSWER).not.toBeNull();
    const answering = socket as unknown as Socket;
    answering.write('SOURCE 1\n');
    let got = 0;
    for await (const bytes of answering) got += (bytes as Buffer).length;
    expect(got).toBe(MIB);
  });
}
