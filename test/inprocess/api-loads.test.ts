/** `GET /v1/loads`: usage and memory events of sandboxes of a real control plane. */
import { expect, it } from 'vitest';
import type { SandboxLoads } from '../../src/sandbox/plane/load.ts';
import { METRICS_KEY, openMetricsWorld } from '../support/metrics-world.ts';

it('loads: the last pressure and OOM kill of each VM, and the newest events of all', async () => {
  await using world = await openMetricsWorld();
  const { host, server } = world;
  const loads = async (): Promise<SandboxLoads> => {
    const headers = { host: 'localhost', 'x-api-key': METRICS_KEY };
    const answer = await server.app.inject({ url: '/v1/loads', headers });
    expect([answer.statusCode, answer.body]).toEqual([200, expect.any(String)]);
    return JSON.parse(answer.body) as SandboxLoads;
  };
  const { id } = await host.control.create({ boot: true });
  const quiet = await loads();
  expect(quiet.events).toEqual([]);
  expect(quiet.sandboxes).toMatchObject([{ id, lastPressure: null, lastOom: null }]);

  const guest = await host.guest(id);
  guest.emit({ type: 'near_oom', memoryBytes: 95, limitBytes: 100 });
  guest.emit({ type: 'oom', oomKills: 1, victim: { pid: 7, name: 'x', rssBytes: 9 }, detail: '' });
  await expect.poll(async () => (await loads()).events.length, { timeout: 20_000 }).toBe(3);
  const answer = await loads();
  expect(answer.sandboxes).toMatchObject([
    { lastPressure: { type: 'near_oom', memoryBytes: 95 }, lastOom: { victim: { name: 'x' } } },
  ]);
  expect(answer.events.map(({ sandbox, type }) => [sandbox, type])).toEqual(
    expect.arrayContaining([
      [id, 'near_oom'],
      [id, 'oom'],
      [id, 'action'],
    ]),
  );

  await host.control.remove(id);
  expect((await loads()).events.at(-1)).toMatchObject({ sandbox: id, type: 'end' });
});
