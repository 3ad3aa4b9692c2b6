/** Sessions: sandboxes end with the connection of their client. REST server and client, on a fake control plane. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type RemoteControlPlane, remoteControlPlane } from '../../src/api/client/client.ts';
import { systemClock } from '../../src/base/clock.ts';
import { SESSION_ANNOTATION } from '../../src/sandbox/contract/request.ts';
import { API_KEY, type ApiFixture, startApi } from '../support/api-fixture.ts';
import { settle } from '../support/fake-members.ts';

/** Event loop turns of a create until its answer is read, with room to spare. */
const TURNS = 24;

let api: ApiFixture;
let beforeCreate: (() => Promise<void> | void) | undefined;
beforeEach(async () => {
  beforeCreate = undefined;
  api = await startApi({ beforeCreate: () => beforeCreate?.() });
});
afterEach(() => api[Symbol.asyncDispose]());

const ids = async (): Promise<string[]> => (await api.control.list()).map(({ id }) => id);

async function openSession(): Promise<{ readonly id: string; readonly socket: Socket }> {
  const socket = connect(api.socketPath);
  socket.write('GET /v1/session HTTP/1.1\r\nhost: localhost\r\n\r\n');
  let text = '';
  while (!text.includes('"}\n\n')) text += String(await once(socket, 'data'));
  return { id: /"id":"([0-9a-f]{32})"/.exec(text)?.[1] ?? '', socket };
}

/** Sends a request from its own client, which does not read the answer. */
async function post(path: string, session: string, key?: string): Promise<Socket> {
  const socket = connect(api.socketPath);
  const head = `POST /v1${path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n`;
  const keyed = key === undefined ? '' : `idempotency-key: ${key}\r\n`;
  socket.write(`${head}${keyed}neurovisor-session: ${session}\r\n\r\n`);
  await once(socket, 'connect');
  return socket;
}

describe('GET /session', () => {
  it('closed: removes exactly the sandboxes created and forked in it', async () => {
    const { id, socket } = await openSession();
    const other = (await api.control.create({})).id;
    const making = await post('/sandboxes', id);
    await expect.poll(ids).toHaveLength(2);
    await once(making, 'data');
    const forking = await post(`/sandboxes/${other}/fork`, id);
    await once(forking, 'data');
    expect(await ids()).toHaveLength(3);
    // Another daemon that finds them knows that their client is gone.
    const inSession = (await api.control.list()).filter(({ annotations }) => annotations[SESSION_ANNOTATION] === 'yes');
    expect(inSession.map((one) => one.id).sort()).toEqual((await ids()).filter((one) => one !== other).sort());
    socket.destroy();
    await expect.poll(ids).toEqual([other]);
  });

  it('closed while a sandbox is created: leaves nothing behind', async () => {
    for (let turn = 0; turn < TURNS; turn++) {
      const { id, socket } = await openSession();
      beforeCreate = async () => {
        for (let waited = 0; waited < 4; waited++) await settle();
      };
      const making = await post('/sandboxes', id);
      for (let waited = 0; waited < turn; waited++) await settle();
      socket.destroy();
      await once(making, 'data');
      await expect.poll(ids).toEqual([]);
      making.destroy();
    }
  });

  it('an Idempotency-Key of another session gives no sandbox that ends with that session', async () => {
    const first = await openSession();
    const second = await openSession();
    const answers = await Promise.all(
      [first, second].map(async ({ id }) => once(await post('/sandboxes', id, 'key'), 'data')),
    );
    for (const answer of answers) expect(String(answer)).toContain('201 Created');
    expect(await ids()).toHaveLength(2);
    first.socket.destroy();
    await expect.poll(ids).toHaveLength(1);
    const again = await once(await post('/sandboxes', second.id, 'key'), 'data');
    expect(String(again)).toContain((await ids())[0]);
    expect(await ids()).toHaveLength(1);
  });

  it('closed: nothing can be created in it', async () => {
    const { id, socket } = await openSession();
    socket.destroy();
    await once(socket, 'close');
    const answer = await once(await post('/sandboxes', id), 'data');
    expect(String(answer)).toContain('"code":"session_closed"');
    expect(await ids()).toEqual([]);
  });
});

describe.each(['unix socket', 'port'])('RemoteControlPlane.openSession over the %s', (way) => {
  const open = (): RemoteControlPlane =>
    remoteControlPlane(
      way === 'port' ? { url: `http://127.0.0.1:${api.port}`, apiKey: API_KEY } : { socketPath: api.socketPath },
      systemClock,
    );

  it('disposed of: removes its sandboxes, not earlier ones', async () => {
    const remote = open();
    const before = await remote.create({});
    await remote.openSession();
    const { id } = await remote.create({});
    await remote.fork(id, { count: 2 });
    expect(await ids()).toHaveLength(4);
    await remote[Symbol.asyncDispose]();
    await expect.poll(ids).toEqual([before.id]);
  });
});

describe('POST /sandboxes/:id/fork: a client that disconnects', () => {
  it('without reading the answer: leaves no fork', async () => {
    const { id } = await api.control.create({});
    const socket = connect(api.socketPath).pause();
    const head = `POST /v1/sandboxes/${id}/fork HTTP/1.1\r\nhost: localhost\r\n`;
    socket.write(`${head}content-length: 0\r\n\r\n`);
    await expect.poll(ids).toHaveLength(2);
    for (let turn = 0; turn < TURNS; turn++) await settle();
    socket.destroy();
    await expect.poll(ids).toEqual([id]);
  });
});
