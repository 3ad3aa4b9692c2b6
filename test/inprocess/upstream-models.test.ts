/** Models of a model server: queried again on each use; an unreachable server keeps its last list. */
import { expect, it } from 'vitest';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { chooseUpstream, type Upstream } from '../../src/host/runtime/upstream.ts';
import type { UpstreamTarget } from '../../src/inference/bridge/upstream/address.ts';
import { listenerOwners } from '../../src/inference/bridge/upstream/listener-owner.ts';
import { startMockUpstream } from '../support/mock-upstream.ts';

const choose = (where: string) =>
  chooseUpstream({
    config: readConfig({ NEUROVISOR_UPSTREAM: where }),
    runDir: '/nowhere',
    cacheDir: '/nowhere',
    modelPath: undefined,
    log: silentLog,
  });

it('offered: includes a model that was added later', async () => {
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

it('offered: an unreachable server keeps its last known models', async () => {
  const server = await startMockUpstream({ models: ['first'] });
  const upstream = await choose(server.target.baseUrl ?? '').finally(() => server.close());
  expect(await upstream.offered()).toEqual(['first']);
});

it('offered: the engine has exactly one model', async () => {
  const upstream = await choose('engine');
  expect(await upstream.offered()).toEqual([upstream.defaultModel]);
});

/** Target of the only server. */
const targetOf = (upstream: Upstream): Promise<UpstreamTarget> => {
  const source = upstream.source(Promise.resolve(null));
  if (typeof source !== 'function') throw new Error('several servers');
  return source();
};

const detected = (baseUrl: string, owners: readonly number[], log = silentLog) =>
  chooseUpstream({
    config: readConfig({ NEUROVISOR_UPSTREAM_KEY: 'sk-host-secret' }),
    runDir: '/nowhere',
    cacheDir: '/nowhere',
    modelPath: undefined,
    log,
    detection: { places: [{ name: 'Ollama', baseUrl }], ownersOf: async () => owners },
  });

it('chooseUpstream: a detected server gets no key, also not on later requests', async () => {
  const server = await startMockUpstream({ models: ['first'] });
  try {
    const upstream = await detected(server.target.baseUrl ?? '', [0]);
    expect(upstream.description).toMatch(/^Ollama at 127\.0\.0\.1:\d+, run by root$/);
    expect(await upstream.offered()).toEqual(['first']);
    expect((await targetOf(upstream)).apiKey).toBeUndefined();
    expect(server.modelListCount()).toBe(2);
    expect(server.modelListKeys()).toEqual([undefined, undefined]);
  } finally {
    await server.close();
  }
});

it.each([
  ['another user', [65_534], /nobody \(uid 65534\)/],
  ['an unknown user', [], /an unknown user/],
])('chooseUpstream: a detected server of %s is not used, and the log says why', async (_, owners, owner) => {
  const server = await startMockUpstream({ models: ['first'] });
  const lines: unknown[] = [];
  const log = { ...silentLog, warn: (...line: unknown[]) => void lines.push(line) };
  try {
    const { baseUrl = '' } = server.target;
    expect((await detected(baseUrl, owners, log)).description).toBe('built-in engine');
    expect(lines).toEqual([
      [
        'model server not used: it belongs to another user',
        {
          server: expect.stringContaining('Ollama'),
          owner: expect.stringMatching(owner),
          remedy: `if you trust it, set NEUROVISOR_UPSTREAM=${baseUrl}`,
        },
      ],
    ]);
  } finally {
    await server.close();
  }
});

it('chooseUpstream: no request goes to a user that takes the port of a detected server', async () => {
  const server = await startMockUpstream({ models: ['first'] });
  try {
    const owners = [0];
    const upstream = await detected(server.target.baseUrl ?? '', owners);
    owners[0] = 65_534;
    await expect(targetOf(upstream)).rejects.toMatchObject({ code: 'upstream_unreachable' });
    expect(await upstream.offered()).toEqual(['first']);
    expect(server.modelListKeys()).not.toContain('Bearer sk-host-secret');
  } finally {
    await server.close();
  }
});

it('listenerOwners: finds the owner of a real listener', async () => {
  const server = await startMockUpstream();
  const port = Number(new URL(server.target.baseUrl ?? '').port);
  expect(await listenerOwners(port)).toEqual([process.getuid?.()]);
  await server.close();
  expect(await listenerOwners(port)).toEqual([]);
});
