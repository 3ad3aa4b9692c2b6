/** A connection to upgrade whose sandbox is not known yet. */
import type { IncomingMessage } from 'node:http';
import { Duplex } from 'node:stream';
import { expect, it } from 'vitest';
import { createE2bServer } from '../../src/api/e2b/server.ts';
import { accessTokens } from '../../src/api/e2b/tokens.ts';
import { operatorOnly } from '../../src/api/tenants/callers.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';

it('may be reset while the sandbox is looked up', async () => {
  await using control = new FakeControlPlane();
  // Like a slow disk.
  control.get = async () => await new Promise(() => undefined);
  await using server = await createE2bServer({
    control,
    clock: systemClock,
    log: silentLog,
    tokens: accessTokens(Buffer.alloc(32, 1)),
    callers: operatorOnly(control, 'key'),
    domain: () => 'localhost',
  });
  const client = new Duplex({ read: () => undefined, write: (_part, _as, done) => done() });
  const request = { headers: { host: '3000-i1.localhost', upgrade: 'websocket' }, url: '/' };
  server.upgrade(request as unknown as IncomingMessage, client, Buffer.alloc(0));
  expect(client.listenerCount('error')).toBeGreaterThan(0);
  client.destroy(new Error('reset'));
  await new Promise((resolve) => client.once('close', resolve));
});
