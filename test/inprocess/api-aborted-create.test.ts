/** An aborted `create` leaves no sandbox, whenever the abort comes: REST server and client, on a fake control plane. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type RemoteControlPlane, remoteControlPlane } from '../../src/api/client/client.ts';
import { systemClock } from '../../src/base/clock.ts';
import { API_KEY, type ApiFixture, startApi } from '../support/api-fixture.ts';
import { makeAuthority } from '../support/certificate-authority.ts';
import { settle } from '../support/fake-members.ts';

/** Event loop turns of a create until its answer is read, with room to spare. */
const TURNS = 24;
const REQUEST = 'POST /v1/sandboxes HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n';

let api: ApiFixture;
const authority = await makeAuthority();
const certificate = await authority.issue(['127.0.0.1']);
let tlsPort: number | null;
let beforeCreate: (() => Promise<void> | void) | undefined;
beforeEach(async () => {
  beforeCreate = undefined;
  api = await startApi({ beforeCreate: () => beforeCreate?.() });
  tlsPort = await api.server.listen({ port: 0, certificate });
});
afterEach(() => api[Symbol.asyncDispose]());

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await settle();
}

async function requireNone(): Promise<void> {
  await expect.poll(() => api.control.list()).toEqual([]);
}

async function connectUnread(): Promise<Socket> {
  const socket = connect(api.socketPath).pause();
  await once(socket, 'connect');
  return socket;
}

describe('POST /sandboxes: a client that disconnects', () => {
  it('while the sandbox is created: leaves nothing behind', async () => {
    const socket = await connectUnread();
    const closed = Promise.withResolvers<void>();
    beforeCreate = async () => {
      socket.destroy();
      await once(socket, 'close');
      closed.resolve();
      await turns(TURNS);
    };
    socket.write(REQUEST);
    await closed.promise;
    await turns(2 * TURNS);
    await requireNone();
  });

  it('as the sandbox becomes ready, before the answer is written: leaves nothing behind', async () => {
    const socket = await connectUnread();
    const created = Promise.withResolvers<void>();
    api.control.onChange(({ status }) => {
      if (status !== 'running') return;
      socket.destroy();
      created.resolve();
    });
    socket.write(REQUEST);
    await created.promise;
    await turns(TURNS);
    await requireNone();
  });

  it('without reading the answer: leaves nothing behind', async () => {
    const socket = await connectUnread();
    socket.write(REQUEST);
    await expect.poll(() => api.control.list()).toHaveLength(1);
    await turns(TURNS);
    socket.destroy();
    await requireNone();
  });

  it('after reading the answer: the sandbox stays', async () => {
    const socket = connect(api.socketPath);
    socket.write(REQUEST);
    await once(socket, 'data');
    socket.destroy();
    await turns(TURNS);
    expect(await api.control.list()).toHaveLength(1);
  });

  it('without reading a later answer on the same connection: the sandbox stays', async () => {
    const socket = connect(api.socketPath);
    socket.write(REQUEST);
    await once(socket, 'data');
    socket.pause();
    socket.write('GET /v1/health HTTP/1.1\r\nhost: localhost\r\n\r\n');
    await turns(TURNS);
    socket.destroy();
    await turns(TURNS);
    expect(await api.control.list()).toHaveLength(1);
  });
});

describe.each(['unix socket', 'port', 'port with TLS'])('RemoteControlPlane.create over the %s', (way) => {
  const open = (): RemoteControlPlane =>
    remoteControlPlane(
      way === 'unix socket'
        ? { socketPath: api.socketPath }
        : way === 'port'
          ? { url: `http://127.0.0.1:${api.port}`, apiKey: API_KEY }
          : { url: `https://127.0.0.1:${tlsPort}`, apiKey: API_KEY, ca: authority.cert },
      systemClock,
    );

  it.each([0, 1, 3])('aborted in any turn, with %s turns of work: leaves nothing behind', async (work) => {
    beforeCreate = () => turns(work);
    await using remote = open();
    await remote.host();
    let aborted = 0;
    for (let turn = 0; turn < TURNS; turn++) {
      const abort = new AbortController();
      const creating = remote.create({}, abort.signal);
      const outcome = creating.catch((error: unknown) => error);
      await turns(turn);
      abort.abort();
      const result = await outcome;
      if (result instanceof Error) {
        expect(result).toMatchObject({ code: 'cancelled' });
        aborted += 1;
      } else await api.control.remove((await creating).id);
      await requireNone();
    }
    expect(aborted).toBeGreaterThan(0);
  });
});

describe('RemoteControlPlane.create', () => {
  it('removes a sandbox whose answer is in flight at the abort', async () => {
    const info = JSON.stringify(await api.control.create({}));
    const requests: string[] = [];
    const arrived = Promise.withResolvers<void>();
    const finish = Promise.withResolvers<void>();
    const server = createServer(async (request, response) => {
      requests.push(`${request.method} ${request.url}`);
      response.writeHead(200, { 'content-length': Buffer.byteLength(info) });
      response.write(info.slice(0, 10));
      if (request.method === 'POST') {
        arrived.resolve();
        await finish.promise;
      }
      response.end(info.slice(10));
    });
    const socketPath = join(api.socketPath, '..', 'other.sock');
    server.listen(socketPath);
    await once(server, 'listening');
    await using remote = remoteControlPlane({ socketPath }, systemClock);
    const abort = new AbortController();
    const creating = expect(remote.create({}, abort.signal)).rejects.toMatchObject({ code: 'cancelled' });
    await arrived.promise;
    await turns(TURNS);
    abort.abort();
    finish.resolve();
    await creating;
    const { id } = JSON.parse(info) as { id: string };
    expect(requests).toEqual(['POST /v1/sandboxes', `DELETE /v1/sandboxes/${id}`]);
    server.close();
  });
});
