import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { detectUpstream } from './detect.ts';

it('detectUpstream: after a timeout, the configured server is probed exactly once more', async () => {
  const clock = new FakeClock();
  let asked = 0;
  let late = 1;
  const server = createServer((_, response) => {
    asked += 1;
    if (asked <= late) clock.advance(5_000);
    else response.end(JSON.stringify({ object: 'list', data: [{ id: 'm1', object: 'model' }] }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    const explicit = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    expect(await detectUpstream({ explicit, clock })).toMatchObject({ models: ['m1'] });
    expect(asked).toBe(2);
    [asked, late] = [0, 9];
    expect(await detectUpstream({ explicit, clock })).toBeNull();
    expect(asked).toBe(2);
    asked = 0;
    expect(await detectUpstream({ explicit, clock, timeoutMs: 1_000 })).toBeNull();
    expect(asked).toBe(1);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});
