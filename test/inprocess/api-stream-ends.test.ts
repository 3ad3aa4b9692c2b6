/** Event streams whose client disconnects before they begin. REST server on a fake control plane. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { expect, it } from 'vitest';
import { API_LIMITS } from '../../src/api/rest/limits.ts';
import { startApi } from '../support/api-fixture.ts';
import { settle } from '../support/fake-members.ts';

/** Event loop turns until the server knows that its client has gone, with room to spare. */
const TURNS = 24;

it.each(['events', 'logs/stream'])('GET /sandboxes/:id/%s: releases its slot', async (what) => {
  await using api = await startApi();
  const { id } = await api.control.create({});
  const known = api.control.get.bind(api.control);
  const ask = (): Socket => {
    const socket = connect(api.socketPath);
    socket.write(`GET /v1/sandboxes/${id}/${what} HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    return socket;
  };
  for (let count = 0; count < API_LIMITS.eventStreamsMax; count += 1) {
    const served = Promise.withResolvers<void>();
    const socket = ask();
    api.control.get = async (asked) => {
      socket.destroy();
      for (let turn = 0; turn < TURNS; turn += 1) await settle();
      served.resolve();
      return await known(asked);
    };
    await served.promise;
    await settle();
  }
  api.control.get = known;
  const socket = ask();
  const [head] = await once(socket, 'data');
  socket.destroy();
  expect(String(head)).toContain('HTTP/1.1 200');
});
