/** The guest protocol through the REST server: bytes both ways, ends, refusals. */
import { createHash, type Hash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { Duplex, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connectDaemon, type RemoteControlPlane } from '../../src/api/client/client.ts';
import { API_LIMITS } from '../../src/api/rest/limits.ts';
import { systemClock } from '../../src/base/clock.ts';
import { MIB } from '../../src/base/units.ts';
import { connectGuest } from '../../src/machine/guest/remote.ts';
import { API_KEY, type ApiFixture, startApi } from '../support/api-fixture.ts';
import { makeAuthority } from '../support/certificate-authority.ts';
import { outcome } from '../support/guest-agent.ts';

const authority = await makeAuthority();
const certificate = await authority.issue(['127.0.0.1']);

describe.each([false, true])('tunnel (TLS: %s)', (isTls) => {
  let api: ApiFixture;
  let remote: RemoteControlPlane;
  let id: string;
  beforeEach(async () => {
    api = await startApi(isTls ? { certificate } : {});
    const url = `${isTls ? 'https' : 'http'}://127.0.0.1:${api.port}`;
    remote = await connectDaemon({ url, apiKey: API_KEY, ca: authority.cert });
    ({ id } = await remote.create({}));
  });
  afterEach(async () => {
    await remote[Symbol.asyncDispose]();
    await api[Symbol.asyncDispose]();
  });

  it.each(['socket', 'port'])('passes 50 MiB through a program and back, over the %s', async (way) => {
    await using other = await connectDaemon({ socketPath: api.socketPath });
    const guest = await (way === 'port' ? remote : other).guest(id);
    const process = await guest.exec({ argv: ['cat'] });
    const [sent, received] = [createHash('sha256'), createHash('sha256')];
    const source = Readable.from(blocks(50, sent));
    source.pipe(process.stdin);
    let bytes = 0;
    for await (const part of process.stdout as AsyncIterable<Buffer>) {
      received.update(part);
      bytes += part.length;
    }
    expect(bytes).toBe(50 * MIB);
    expect(received.digest('hex')).toBe(sent.digest('hex'));
    expect((await process.exit).exitCode).toBe(0);
  });

  it('measures the agent’s answer time for tunnels and exec', async () => {
    const answers = async (): Promise<string | undefined> =>
      /^neurovisor_operation_answer_seconds_count (\d+)$/m.exec(await remote.metrics())?.[1];
    expect(await answers()).toBe('0');
    const process = await (await remote.guest(id)).exec({ argv: ['true'] });
    await process.exit;
    expect(await answers()).toBe('1');
    await api.ask('POST', `/sandboxes/${id}/exec`, { argv: ['true'] });
    expect(await answers()).toBe('2');
  });

  it('passes a file of 50 MiB both ways', async () => {
    const guest = await remote.guest(id);
    const path = join(await api.control.dirOf(id), 'large');
    const [sent, received] = [createHash('sha256'), createHash('sha256')];
    const entry = await guest.files.write(path, blocks(50, sent));
    expect(entry.bytes).toBe(50 * MIB);
    for await (const part of await guest.files.read(path)) received.update(part as Buffer);
    expect(received.digest('hex')).toBe(sent.digest('hex'));
  });

  it('passes half-closes both ways', async () => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      void text(socket).then((all) => socket.end(`got ${all}`));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    const stream = await (await remote.guest(id)).connect(port);
    stream.end('all of it');
    expect(await text(stream)).toBe('got all of it');
    server.close();
  });

  it('back-pressure: a side that does not read stops the other', async () => {
    const guest = await remote.guest(id);
    const process = await guest.exec({ argv: ['cat', '/dev/zero'] });
    let moved = -1;
    const stats = (): number => process.stdout.readableLength;
    await expect
      .poll(() => {
        const stopped = moved === stats() && moved > 0;
        moved = stats();
        return stopped;
      })
      .toBe(true);
    expect(moved).toBeLessThan(2 * MIB);
    process.kill();
    process.stdout.resume();
    expect((await process.exit).signal).toBe('SIGKILL');
  });

  it('cancel: the program is killed in the guest', async () => {
    const guest = await remote.guest(id);
    const cancel = new AbortController();
    const process = await guest.exec({ argv: ['sleep', '600'] }, cancel.signal);
    cancel.abort();
    await expect(process.exit).rejects.toMatchObject({ code: 'cancelled' });
    await expect.poll(() => guest.processes()).toEqual([]);
  });

  it('a dead client: its program is killed', async () => {
    const guest = await api.control.guest(id);
    const { socket } = await upgrade();
    socket.write(`${JSON.stringify({ v: 1, op: 'exec', argv: ['sleep', '600'] })}\n`);
    await expect.poll(async () => (await guest.processes()).length).toBe(1);
    socket.destroy();
    await expect.poll(() => guest.processes()).toEqual([]);
  });

  it('keeps bytes that follow the request at once', async () => {
    const line = `${JSON.stringify({ v: 1, op: 'stats' })}\n`;
    const { socket, head } = await upgrade(line);
    expect(head).toContain('101 Switching Protocols');
    const rest = await text(socket);
    expect(head + rest).toContain('{"ok":true,"cpuCount"');
  });

  it('takes the name of a sandbox', async () => {
    const named = await remote.create({ name: 'web' });
    for (const [sandbox, status] of [
      ['web', '101 '],
      ['other', '404 '],
    ] as const) {
      const { socket, head } = await upgrade('', sandbox);
      socket.destroy();
      expect(head).toContain(status);
    }
    await remote.remove(named.id);
  });

  it('ends with the sandbox', async () => {
    const { socket } = await upgrade();
    const ended = once(socket, 'close');
    socket.resume();
    await remote.remove(id);
    await ended;
  });

  it('ends with the server; the end of a program is then unknown', async () => {
    const guest = await remote.guest(id);
    const process = await guest.exec({ argv: ['sleep', '600'] });
    await api.server.close();
    await expect(process.exit).rejects.toMatchObject({ code: 'connection_lost' });
  });

  it('a paused sandbox: resumed, or refused without autoResume', async () => {
    await remote.pause(id, 'disk');
    const guest = await remote.guest(id);
    const hello = await guest.exec({ argv: ['echo', 'hello'] });
    expect((await outcome(hello)).stdout).toBe('hello\n');
    await remote.update(id, { autoResume: false });
    await remote.pause(id, 'memory');
    await expect(remote.openOperation(id)).rejects.toMatchObject({ code: 'not_ready' });
  });

  it('typed refusals: unknown sandbox, ended sandbox, wrong method', async () => {
    await expect(remote.openOperation('aaaaaaaaaaaaaaaaaaaa')).rejects.toMatchObject({ code: 'not_found' });
    await remote.remove(id);
    await expect(remote.openOperation(id)).rejects.toMatchObject({ code: 'gone' });
    const socket = api.connect();
    const answer = text(socket);
    socket.write(request(id).replace('GET', 'POST'));
    expect(await answer).toContain('route_not_found');
  });

  it('ports: raw bytes, typed refusals, an end with the client', async () => {
    const ends: Promise<unknown>[] = [];
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      ends.push(once(socket, 'end').then(() => socket.destroy()));
      socket.on('error', () => undefined);
      socket.once('data', (data) => socket.write(`got ${data}`));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const stream = await remote.openPort(id, port);
    stream.write('hello');
    expect(String((await once(stream, 'data'))[0])).toBe('got hello');
    stream.destroy();
    await ends[0];
    server.close();
    await expect(remote.openPort(id, port)).rejects.toMatchObject({ code: 'port_unreachable' });
    for (const wrong of [0, 65_536, 1.5]) {
      await expect(remote.openPort(id, wrong)).rejects.toMatchObject({ code: 'refused' });
    }
    const socket = api.connect();
    const answer = text(socket);
    // The other tunnel's protocol.
    socket.write(request(id).replace('/operations', `/ports/${port}`));
    expect(await answer).toContain('route_not_found');
  });

  it('a canceled program ends the connection that is still being opened', async () => {
    const { info } = await remote.guest(id);
    const dialled: Promise<Duplex>[] = [];
    const dial = (signal?: AbortSignal): Promise<Duplex> => {
      const stream = remote.openOperation(id, signal);
      dialled.push(stream);
      return stream;
    };
    const aborter = new AbortController();
    const started = connectGuest({ dial, info, clock: systemClock }).exec({ argv: ['true'] }, aborter.signal);
    aborter.abort();
    await expect(started).rejects.toMatchObject({ code: 'cancelled' });
    await expect(dialled[0]).rejects.toMatchObject({ code: 'cancelled' });
  });

  it('limits tunnels per sandbox and in total', async () => {
    const open: Duplex[] = [];
    const fill = async (sandbox: string, count: number): Promise<void> => {
      for (let n = 0; n < count; n += 1) open.push((await upgrade('', sandbox)).socket);
    };
    // A guest that never answers and never ends.
    api.control.openOperation = async () =>
      new Duplex({ read: () => undefined, write: (_bytes, _encoding, done) => done() });
    await fill(id, API_LIMITS.tunnelsPerSandboxMax);
    const busy = { code: 'busy', message: expect.stringContaining(id) };
    await expect(remote.openOperation(id)).rejects.toMatchObject(busy);
    for (let used = open.length; used < API_LIMITS.tunnelsMax; used = open.length) {
      const other = await remote.create({});
      await fill(other.id, API_LIMITS.tunnelsPerSandboxMax);
    }
    const last = await remote.create({});
    const full = { code: 'busy', message: expect.stringContaining('tunnels') };
    await expect(remote.openOperation(last.id)).rejects.toMatchObject(full);
    for (const socket of open) socket.destroy();
  });

  /** Opens a tunnel by hand, over the socket. */
  async function upgrade(behind = '', sandbox = id): Promise<{ socket: Socket; head: string }> {
    const socket = api.connect();
    socket.on('error', () => undefined);
    socket.write(request(sandbox) + behind);
    const [head] = (await once(socket, 'data')) as [Buffer];
    return { socket, head: String(head) };
  }
});

const request = (id: string): string =>
  `GET /v1/sandboxes/${id}/operations HTTP/1.1\r\nhost: localhost\r\n` +
  'connection: Upgrade\r\nupgrade: neurovisor-guest\r\n\r\n';

async function* blocks(count: number, digest: Hash): AsyncGenerator<Buffer> {
  for (let block = 0; block < count; block += 1) {
    const bytes = randomBytes(MIB);
    digest.update(bytes);
    yield bytes;
  }
}

it('tunnel: a client that leaves while its sandbox is looked up does not count for ever', async () => {
  await using api = await startApi();
  const { id } = (await api.ask('POST', '/sandboxes', {})).json as { id: string };
  const [asked, gone] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const get = api.control.get.bind(api.control);
  const late: typeof get = async (asks) => {
    asked.resolve();
    await gone.promise;
    return await get(asks);
  };
  Object.defineProperty(api.control, 'get', { value: late });
  const client = connect(api.port, '127.0.0.1');
  client.write(
    `GET /v1/sandboxes/${id}/operations HTTP/1.1\r\nhost: localhost\r\nx-api-key: ${API_KEY}\r\n` +
      'connection: upgrade\r\nupgrade: neurovisor-guest\r\n\r\n',
  );
  await asked.promise;
  client.resetAndDestroy();
  const open = async (): Promise<string | undefined> => {
    const headers = { host: 'localhost', 'x-api-key': API_KEY };
    const { body } = await api.server.app.inject({ url: '/metrics', headers });
    return /^neurovisor_api_tunnels (\d+)$/m.exec(body)?.[1];
  };
  await expect.poll(open).toBe('0');
  gone.resolve();
  await new Promise((resolve) => setImmediate(resolve));
  expect(await open()).toBe('0');
});
