/** The guest protocol over other streams than sockets: an HTTP upgrade, a pair of Duplex streams. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer as createHttpServer, request, type Server } from 'node:http';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { type Duplex, duplexPair, type Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sleep, systemClock } from '../../src/base/clock.ts';
import type { Dial } from '../../src/machine/guest/dial.ts';
import { GuestError } from '../../src/machine/guest/errors.ts';
import type { Guest } from '../../src/machine/guest/guest.ts';
import { connectGuest } from '../../src/machine/guest/remote.ts';
import { outcome, type RunningAgent, startAgent } from '../support/guest-agent.ts';

let agent: RunningAgent;
let tunnel: Server;
/** The identity of the current control connection. */
let holder: Guest;

beforeAll(async () => {
  agent = await startAgent();
  holder = agent.guest;
  tunnel = createHttpServer();
  tunnel.on('upgrade', (_request, socket, head) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: guest\r\n\r\n');
    splice(socket, agent.channelPath, head);
  });
  tunnel.listen(join(agent.dir, 'http'));
  await once(tunnel, 'listening');
});
afterAll(async () => {
  expect(agent.console()).toBe('');
  tunnel.close();
  await agent[Symbol.asyncDispose]();
});

/** Forwards bytes, ends and resets between `stream` and the agent. */
function splice(stream: Duplex, channelPath: string, head?: Buffer): void {
  const channel = connect({ path: channelPath, allowHalfOpen: true });
  channel.write('CONNECT 5000\n');
  if (head !== undefined && head.length > 0) channel.write(head);
  stream.pipe(channel);
  channel.pipe(stream);
  for (const [one, other] of [
    [stream, channel],
    [channel, stream],
  ] as const) {
    one.on('error', () => other.destroy());
    one.on('close', () => other.destroy());
  }
}

const upgrade: Dial = () =>
  new Promise((resolve, reject) => {
    const headers = { connection: 'Upgrade', upgrade: 'guest' };
    const asked = request({ socketPath: join(agent.dir, 'http'), headers });
    asked.on('error', reject);
    asked.on('upgrade', (_response, socket, head) => {
      if (head.length > 0) socket.unshift(head);
      resolve(socket);
    });
    asked.end();
  });

const pair: Dial = () => {
  const [ours, theirs] = duplexPair();
  splice(theirs, agent.channelPath);
  return ours;
};

const guestOver = (dial: Dial): Guest => connectGuest({ dial, info: agent.guest.info, clock: systemClock });
const digest = (data: Buffer): string => createHash('sha256').update(data).digest('hex');

describe.each<[string, Dial]>([
  ['HTTP upgrade', upgrade],
  ['Duplex pair', pair],
])('connectGuest over %s', (_name, dial) => {
  const guest = (): Guest => guestOver(dial);

  it('programs: streams, input and its end, exit', async () => {
    const process = await guest().exec({ argv: ['sh', '-c', 'cat; echo err >&2; exit 7'] });
    process.stdin.end('in\n');
    const result = await outcome(process);
    expect(result).toMatchObject({ stdout: 'in\n', stderr: 'err\n', exit: { exitCode: 7 } });
  });

  it('back-pressure: 8 MiB arrive whole both ways, and a reader that stops blocks the program', async () => {
    const content = randomBytes(8 * 1024 * 1024);
    const process = await guest().exec({ argv: ['cat'] });
    process.stdin.end(content);
    await sleep(200);
    expect(process.stdout.readableLength).toBeLessThan(1024 * 1024);
    expect(digest(await buffer(process.stdout))).toBe(digest(content));
    expect((await process.exit).exitCode).toBe(0);
  });

  it('files: content written before the stream is open comes back', async () => {
    const path = join(agent.dir, 'content');
    const content = randomBytes(300_000);
    await guest().files.write(path, content);
    expect(digest(await guest().files.readAll(path))).toBe(digest(content));
  });

  it('ports: our direction stays open after the peer closes its own', async () => {
    const got = Promise.withResolvers<string>();
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.end('bye');
      got.resolve(text(socket));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    const stream = await guest().connect(port);
    expect(await text(stream as Readable)).toBe('bye');
    stream.end('still here');
    expect(await got.promise).toBe('still here');
    server.close();
  });

  it('cancel: the program ends with its connection', async () => {
    const abort = new AbortController();
    const process = await guest().exec({ argv: ['sleep', '1000'] }, abort.signal);
    abort.abort();
    await expect(process.exit).rejects.toMatchObject({ code: 'cancelled' });
    for (let tries = 0; tries < 200 && (await holder.processes()).length > 0; tries += 1) {
      await sleep(20);
    }
    expect(await holder.processes()).toEqual([]);
  });

  it('settle, update and close: the same as over the channel', async () => {
    const one = guest();
    await one.update({ env: {} });
    await one.settle();
    const process = await one.exec({ argv: ['sleep', '1000'] });
    one.close();
    expect(await one.closed).toMatchObject({ reason: 'closed' });
    await expect(process.exit).rejects.toMatchObject({ code: 'connection_lost' });
    await expect(one.stats()).rejects.toMatchObject({ code: 'connection_lost' });
    await holder.signal(process.pid, 'SIGKILL');
    // The next hello ends the effect of settle.
    holder.close();
    holder = await agent.listener.ready();
  });
});

describe('connectGuest, a dial that fails', () => {
  it('rejected: connection_lost with its cause; a GuestError unchanged', async () => {
    const cause = new Error('no such tunnel');
    await expect(guestOver(() => Promise.reject(cause)).stats()).rejects.toMatchObject({
      code: 'connection_lost',
      cause,
    });
    const known = new GuestError('suspended', 'the sandbox is paused');
    await expect(guestOver(() => Promise.reject(known)).stats()).rejects.toBe(known);
  });

  it('thrown, or a closed stream: typed errors', async () => {
    const thrown = guestOver(() => {
      throw new Error('no');
    });
    await expect(thrown.stats()).rejects.toMatchObject({ code: 'connection_lost' });
    const [closed] = duplexPair();
    closed.destroy();
    await expect(guestOver(() => closed).stats()).rejects.toMatchObject({ code: 'connection_lost' });
  });

  it('cancelled while dialing: the late stream is dropped', async () => {
    const late = Promise.withResolvers<Duplex>();
    const abort = new AbortController();
    const exec = guestOver(() => late.promise).exec({ argv: ['true'] }, abort.signal);
    abort.abort();
    await expect(exec).rejects.toMatchObject({ code: 'cancelled' });
    const [ours] = duplexPair();
    late.resolve(ours);
    await once(ours, 'close');
    expect(ours.destroyed).toBe(true);
  });

  it('a stream that ends at once: connection_lost', async () => {
    const [ours, theirs] = duplexPair();
    const stats = guestOver(() => ours).stats();
    theirs.end();
    await expect(stats).rejects.toMatchObject({ code: 'connection_lost' });
  });
});
