/** What a model server offers is asked anew, and a server that went away is told as it was. */
import { expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { readConfig } from '../../src/config.ts';
import { chooseUpstream } from '../../src/runtime/upstream.ts';
import { startMockUpstream } from '../support/mock-upstream.ts';

const choose = (where: string) =>
  chooseUpstream({
    config: readConfig({ NEUROVISOR_UPSTREAM: where }),
    runDir: '/nowhere',
    modelPath: undefined,
    log: silentLog,
  });

it('offered: a model that was added since is in it', async () => {
  const models = ['first'];
  const server = await startMockUpstream({ models });
  try {
    const upstream = await choose(server.target.baseUrl ?? '');
    expect(await upstream.offered()).toEqual(['first']);
    models.push('second');
    expect(await upstream.offered()).toEqual(['first', 'second']);
  } finally {
    await server.close();
  }
});

it('offered: of a server that does not answer any more, what it had', async () => {
  const server = await startMockUpstream({ models: ['first'] });
  const upstream = await choose(server.target.baseUrl ?? '').finally(() => server.close());
  expect(await upstream.offered()).toEqual(['first']);
});

it('offered: the engine has its one model', async () => {
  const upstream = await choose('engine');
  expect(await upstream.offered()).toEqual([upstream.defaultModel]);
});
