import { Readable } from 'node:stream';
import { expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { silentLog } from '../../../base/log.ts';
import { BRIDGE_LIMITS } from '../limits.ts';
import type { UpstreamTarget } from './address.ts';
import { Catalog } from './catalog.ts';
import type { UpstreamClient } from './client.ts';

it('Catalog: servers at one URL have separate lists if their keys, APIs or names differ', async () => {
  const asked: (string | undefined)[] = [];
  const send = async ({ target }: { target: UpstreamTarget }) => {
    asked.push(target.apiKey);
    const list = JSON.stringify({ data: [{ id: `of ${target.apiKey} ${target.api}` }] });
    return Object.assign(Readable.from([Buffer.from(list)]), { statusCode: 200, headers: {} });
  };
  const catalog = new Catalog({
    client: { send } as unknown as UpstreamClient,
    clock: new FakeClock(),
    log: silentLog,
    limits: BRIDGE_LIMITS,
  });
  const at = { name: 'a', baseUrl: 'https://models.invalid' };
  const targets: UpstreamTarget[] = [
    { ...at, apiKey: 'one' },
    { ...at, apiKey: 'two' },
    { ...at, apiKey: 'two', api: 'anthropic' },
  ];
  for (const _ of [1, 2]) {
    const lists = await Promise.all(targets.map((target) => catalog.models({ ...target })));
    expect(lists.map((list) => list?.[0]?.id)).toEqual(['of one undefined', 'of two undefined', 'of two anthropic']);
  }
  // Now they are cached.
  expect(asked).toEqual(['one', 'two', 'two']);
});
