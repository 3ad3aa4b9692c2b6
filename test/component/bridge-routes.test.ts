/** Several model servers behind the bridge, over real sockets: down, slow, limited, at a unix socket, over TLS. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { readConfig } from '../../src/base/config.ts';
import { type Log, silentLog } from '../../src/base/log.ts';
import { readModelsFile } from '../../src/host/runtime/model-servers/models-file.ts';
import { openServers } from '../../src/host/runtime/model-servers/servers.ts';
import type { BridgeOptions, BridgePolicy } from '../../src/inference/bridge/bridge.ts';
import { QUEUE_LIMITS } from '../../src/inference/bridge/queue/upstream-queues.ts';
import { type Draw, drawByHash } from '../../src/inference/bridge/routing/affinity.ts';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { makeAuthority } from '../support/certificate-authority.ts';
import {
  completion,
  delta,
  done,
  finish,
  type MockUpstream,
  sendJson,
  startEvents,
  startMockUpstream,
} from '../support/mock-upstream.ts';

const CHAT = '/v1/chat/completions';
const chat = (model: string, more: Record<string, unknown> = {}) => ({
  model,
  messages: [{ role: 'user', content: 'hello' }],
  ...more,
});

let cleanup: CleanupStack;
let dir: string;
beforeEach(async () => {
  cleanup = new CleanupStack();
  dir = await mkdtemp(join(tmpdir(), 'nv-routes-'));
  cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
});
afterEach(() => cleanup.run());

async function mock(name: string, options: Parameters<typeof startMockUpstream>[0] = {}): Promise<MockUpstream> {
  const server = await startMockUpstream(options);
  cleanup.push(name, () => server.close());
  server.answer((_, response) => sendJson(response, 200, completion(`from ${name}`)));
  return server;
}

/** An address without a listener. */
async function deadUrl(): Promise<string> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`;
}

async function bridge(
  toml: string,
  policy: BridgePolicy = {},
  options: { draw?: Draw; env?: Record<string, string>; log?: Log; queue?: BridgeOptions['queue'] } = {},
): Promise<BridgeFixture> {
  const path = join(dir, 'models.toml');
  await writeFile(path, toml);
  const { draw = () => 0, env = {}, log = silentLog, queue } = options;
  const config = readConfig({ NEUROVISOR_MODELS: path });
  const file = readModelsFile(config, env);
  if (file === null) throw new Error('no file');
  const routes = (
    await openServers(file, { config, runDir: dir, cacheDir: dir, log: silentLog, reread: () => null })
  ).source(Promise.resolve(null));
  const fixture = await bridgeFixture({ routes, policy, draw, log, queue });
  cleanup.push('bridge', () => fixture.close());
  return fixture;
}

const contentOf = (body: string): unknown =>
  (JSON.parse(body) as { choices: { message: { content: unknown } }[] }).choices[0]?.message.content;
const errorOf = (body: string) => (JSON.parse(body) as { error: Record<string, unknown> }).error;

describe('bridge: routes', () => {
  it('sends a model to its upstream, under the upstream’s own name for it', async () => {
    const one = await mock('one');
    const two = await mock('two', { socketPath: join(dir, 'two.sock') });
    const { call, nextUsage } = await bridge(`
      [upstreams.one]
      url = "${one.target.baseUrl}"
      [upstreams.two]
      url = "unix:${join(dir, 'two.sock')}"
      [models.small]
      upstream = "one"
      [models.large]
      routes = [{ upstream = "two", model = "Qwen/Qwen3-8B" }]
    `);
    const settled = nextUsage();
    const answer = await call(CHAT, chat('large'));
    expect([answer.status, contentOf(answer.body)]).toEqual([200, 'from two']);
    expect(JSON.parse(two.requests[0]?.body ?? '')).toMatchObject({ model: 'Qwen/Qwen3-8B' });
    expect(await settled).toMatchObject({ model: 'large', outcome: 'ok' });
    expect(contentOf((await call(CHAT, chat('small'))).body)).toBe('from one');
    expect(one.requests).toHaveLength(1);
  });

  it('sends requests of one conversation to the same replica, and spreads conversations', async () => {
    const one = await mock('one');
    const two = await mock('two');
    const { call } = await bridge(
      `
      [upstreams.one]
      url = "${one.target.baseUrl}"
      [upstreams.two]
      url = "${two.target.baseUrl}"
      [models.m]
      routes = [{ upstream = "one" }, { upstream = "two" }]
    `,
      {},
      { draw: drawByHash },
    );
    const chosen = new Set<unknown>();
    // All of 32 at one of two: once in 2 ** 31 runs.
    for (let n = 0; n < 32; n += 1) {
      const begun = [{ role: 'user', content: `question ${n}` }];
      const first = contentOf((await call(CHAT, { model: 'm', messages: begun })).body);
      const messages = [...begun, { role: 'assistant', content: 'answer' }, { role: 'user', content: 'and then?' }];
      for (let again = 0; again < 2; again += 1) {
        expect(contentOf((await call(CHAT, { model: 'm', messages })).body)).toBe(first);
      }
      chosen.add(first);
    }
    expect(chosen.size).toBe(2);
  });

  it('tries the next server if one is down before the first byte, also for streams', async () => {
    const up = await mock('up');
    up.answer((_, response) => {
      startEvents(response);
      response.end(delta('hi') + finish + done);
    });
    const {
      call,
      usage,
      bridge: under,
    } = await bridge(`
      [upstreams.down]
      url = "${await deadUrl()}"
      [upstreams.up]
      url = "${up.target.baseUrl}"
      [models.m]
      routes = [{ upstream = "down", weight = 9 }, { upstream = "up" }]
    `);
    const answer = await call(CHAT, chat('m', { stream: true }));
    expect(answer).toMatchObject({ status: 200, broken: false });
    expect(answer.body).toContain('[DONE]');
    expect(usage).toMatchObject([{ model: 'm', outcome: 'ok' }]);
    const attempts = under.metrics().find(({ name }) => name.endsWith('upstream_attempts_total'));
    expect(attempts?.samples().filter(({ value }) => value > 0)).toMatchObject([
      { labels: { upstream: 'down', result: 'connect' }, value: 1 },
      { labels: { upstream: 'up', result: 'answered' }, value: 1 },
    ]);
  });

  it('tries the next server on a rate limit, and skips the limited one for this model until the time that it named', async () => {
    const limited = await mock('limited');
    const other = await mock('other');
    limited.answer(({ body }, response) => {
      if (body.includes('"m"')) sendJson(response, 429, { error: { message: 'slow down' } }, { 'retry-after': '300' });
      else sendJson(response, 200, completion('from limited'));
    });
    const { call } = await bridge(`
      [upstreams.limited]
      url = "${limited.target.baseUrl}"
      [upstreams.other]
      url = "${other.target.baseUrl}"
      [models.m]
      upstream = "limited"
      fallback = ["spare"]
      [models.spare]
      upstream = "other"
      [models.alone]
      routes = [{ upstream = "limited", model = "m" }]
      [models.another]
      upstream = "limited"
    `);
    for (const _ of [1, 2]) {
      expect(contentOf((await call(CHAT, chat('m'))).body)).toBe('from other');
    }
    expect(limited.requests).toHaveLength(1);
    const answer = await call(CHAT, chat('alone'));
    expect([answer.status, errorOf(answer.body)['code']]).toEqual([429, 'upstream_limited']);
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(290);
    expect(limited.requests).toHaveLength(1);
    expect(contentOf((await call(CHAT, chat('another'))).body)).toBe('from limited');
  });

  it('skips a server that keeps failing, and says when to retry', async () => {
    const failing = await mock('failing');
    failing.answer((_, response) => sendJson(response, 503, { error: { message: 'no' } }));
    const { call } = await bridge(`
      [upstreams.failing]
      url = "${failing.target.baseUrl}"
      [models.m]
      upstream = "failing"
    `);
    for (const _ of [1, 2, 3]) {
      expect(errorOf((await call(CHAT, chat('m'))).body)['message']).toBe('no');
    }
    const answer = await call(CHAT, chat('m'));
    expect([answer.status, errorOf(answer.body)['code']]).toEqual([503, 'upstream_unavailable']);
    expect(answer.headers['retry-after']).toMatch(/^[12]$/);
    expect(failing.requests).toHaveLength(3);
  });

  it('keeps serving others while one sandbox’s requests make a server fail with 500', async () => {
    const picky = await mock('picky');
    const fine = completion('fine');
    picky.answer(({ body }, response) => {
      if (body.includes('poison')) sendJson(response, 500, { error: { message: 'crash' } });
      else sendJson(response, 200, fine);
    });
    const { call } = await bridge(`
      [upstreams.picky]
      url = "${picky.target.baseUrl}"
      [models.m]
      upstream = "picky"
    `);
    const poison = chat('m', { messages: [{ role: 'user', content: 'poison' }] });
    for (let i = 0; i < 10; i += 1) expect((await call(CHAT, poison)).status).toBe(500);
    expect((await call(CHAT, chat('m'))).status).toBe(200);
  });

  it('forwards the last error with its Retry-After when no route is left', async () => {
    const limited = await mock('limited');
    limited.answer((_, response) =>
      sendJson(response, 429, { error: { message: 'slow down' } }, { 'retry-after': '7' }),
    );
    const { call, usage } = await bridge(`
      [upstreams.limited]
      url = "${limited.target.baseUrl}"
      [upstreams.down]
      url = "${await deadUrl()}"
      [models.m]
      routes = [{ upstream = "down", weight = 1000 }, { upstream = "limited" }]
    `);
    const answer = await call(CHAT, chat('m'));
    expect([answer.status, answer.headers['retry-after']]).toEqual([429, '7']);
    expect(errorOf(answer.body)['message']).toBe('slow down');
    expect(usage).toMatchObject([{ status: 429, outcome: 'upstream-error' }]);
  });

  it('never sends a request twice once the first byte has come, or may have come', async () => {
    const broken = await mock('broken');
    const other = await mock('other');
    const { call } = await bridge(`
      [upstreams.broken]
      url = "${broken.target.baseUrl}"
      [upstreams.other]
      url = "${other.target.baseUrl}"
      [models.m]
      upstream = "broken"
      fallback = ["spare"]
      [models.spare]
      upstream = "other"
    `);
    broken.answer((_, response) => {
      startEvents(response);
      response.write(delta('half an '), () => response.destroy());
    });
    const answer = await call(CHAT, chat('m', { stream: true }));
    expect(answer.body).toContain('half an ');
    expect(answer.body).toContain('upstream_died');
    // The server has the whole request and may be working on it.
    broken.answer((_, response) => response.destroy());
    expect((await call(CHAT, chat('m'))).status).toBe(503);
    expect(other.requests).toEqual([]);
  });

  it('falls back only for the configured causes, and not for an error of the request', async () => {
    const failing = await mock('failing');
    const other = await mock('other');
    const { call } = await bridge(`
      [upstreams.failing]
      url = "${failing.target.baseUrl}"
      [upstreams.other]
      url = "${other.target.baseUrl}"
      [models.m]
      upstream = "failing"
      fallback = ["spare"]
      fallback_on = ["connect", "429"]
      [models.spare]
      upstream = "other"
    `);
    for (const status of [400, 401, 404, 500, 503]) {
      failing.answer((_, response) => sendJson(response, status, { error: { message: 'no' } }));
      expect((await call(CHAT, chat('m'))).status).toBe(status);
    }
    expect(other.requests).toEqual([]);
    expect(failing.requests).toHaveLength(5);
  });

  it('gives an upstream at most as many requests as its slots, and others wait', async () => {
    const slow = await mock('slow');
    const arrived: string[] = [];
    const held: (() => void)[] = [];
    slow.answer(({ body }, response) => {
      arrived.push((JSON.parse(body) as { user: string; seed: number }).seed.toString());
      held.push(() => sendJson(response, 200, completion('done')));
    });
    const fixture = await bridge(`
      [upstreams.slow]
      url = "${slow.target.baseUrl}"
      concurrency = 1
      [models.m]
      upstream = "slow"
    `);
    const first = fixture.call(CHAT, chat('m', { seed: 1 }));
    await expect.poll(() => arrived).toEqual(['1']);
    const left = fixture.open(CHAT, chat('m', { seed: 2 }));
    await expect.poll(() => fixture.port.stats().inFlight).toBe(2);
    const third = fixture.call(CHAT, chat('m', { seed: 3 }));
    await expect.poll(() => fixture.port.stats().inFlight).toBe(3);
    left.abort();
    await expect.poll(() => fixture.port.stats().inFlight).toBe(2);
    expect(arrived).toEqual(['1']);
    held[0]?.();
    expect((await first).status).toBe(200);
    await expect.poll(() => arrived).toEqual(['1', '3']);
    held[1]?.();
    expect((await third).status).toBe(200);
  });

  it('tries the next server if one does not start to answer in time', async () => {
    const slow = await mock('slow');
    const other = await mock('other');
    slow.answer(() => undefined);
    const { call } = await bridge(`
      [upstreams.slow]
      url = "${slow.target.baseUrl}"
      answer_within_s = 1
      [upstreams.other]
      url = "${other.target.baseUrl}"
      [models.m]
      routes = [{ upstream = "slow", weight = 1000 }, { upstream = "other" }]
    `);
    expect(contentOf((await call(CHAT, chat('m'))).body)).toBe('from other');
    await slow.requests[0]?.aborted;
  });

  it('reaches a server over TLS with a configured authority and a key from a file', async () => {
    const authority = await makeAuthority();
    const tls = await authority.issue(['127.0.0.1', 'localhost']);
    const secure = await mock('secure', { tls });
    const plain = await mock('plain');
    await writeFile(join(dir, 'ca.pem'), authority.cert);
    await writeFile(join(dir, 'key'), 'sk-from-file\n', { mode: 0o600 });
    const url = secure.target.baseUrl?.replace('127.0.0.1', 'localhost');
    const lines: string[] = [];
    const note = (...line: unknown[]): void => void lines.push(JSON.stringify(line));
    const log = { error: note, warn: note, info: note, debug: note };
    const toml = `
      [upstreams.secure]
      url = "${url}"
      ca_file = "ca.pem"
      key = { file = "key" }
      [upstreams.distrusted]
      url = "${url}/other/v1"
      key = { env = "CLOUD_KEY" }
      [upstreams.plain]
      url = "${plain.target.baseUrl}"
      [models.m]
      upstream = "secure"
      [models.d]
      upstream = "distrusted"
      fallback = ["p"]
      [models.p]
      upstream = "plain"
    `;
    const { call } = await bridge(toml, {}, { env: { CLOUD_KEY: 'sk-from-env' }, log });
    expect(contentOf((await call(CHAT, chat('m'))).body)).toBe('from secure');
    expect(secure.requests[0]?.headers.authorization).toBe('Bearer sk-from-file');
    // Neither the system nor the file trusts it: it gets no byte of the request.
    expect(contentOf((await call(CHAT, chat('d'))).body)).toBe('from plain');
    expect(secure.requests).toHaveLength(1);
    expect(plain.requests[0]?.headers.authorization).toBeUndefined();
    secure.answer(({ headers }, response) =>
      sendJson(response, 401, { error: { message: `bad key ${headers.authorization}` } }),
    );
    const answer = await call(CHAT, chat('m'));
    expect([answer.status, answer.body.includes('sk-from')]).toEqual([401, false]);
    expect(lines.join()).not.toContain('sk-from');
  });
});

describe('bridge: local-only', () => {
  const HOSTED = async () => {
    const local = await mock('local', { models: ['own'] });
    const hosted = await mock('hosted', { models: ['gpt-5-mini', 'gpt-9'] });
    const toml = `
      [upstreams.local]
      url = "${local.target.baseUrl}"
      [upstreams.cloud]
      url = "${hosted.target.baseUrl}"
      hosted = true
      [models.mine]
      upstream = "local"
      fallback = ["gpt-5-mini"]
      [models.gpt-5-mini]
      upstream = "cloud"
    `;
    return { local, hosted, toml };
  };
  const modelsOf = async ({ call }: BridgeFixture): Promise<string[]> => {
    const { body } = await call('/v1/models');
    return (JSON.parse(body) as { data: { id: string }[] }).data.map(({ id }) => id).sort();
  };

  it('hides hosted models from a sandbox, and refuses them by name', async () => {
    const { hosted, toml } = await HOSTED();
    const fixture = await bridge(toml);
    expect(await modelsOf(fixture)).toEqual(['mine', 'own']);
    const answer = await fixture.call(CHAT, chat('gpt-5-mini'));
    expect([answer.status, errorOf(answer.body)['code']]).toEqual([403, 'model_hosted']);
    expect(errorOf(answer.body)['message']).toContain('--allow-hosted gpt-5-mini');
    const policy = { aliases: { x: 'gpt-5-mini' }, allowModels: ['gpt-5-mini'] };
    fixture.port.setPolicy({ ...policy, defaultModel: 'gpt-5-mini' });
    for (const name of ['x', 'default', 'gpt-5-mini', undefined]) {
      const { status } = await fixture.call(CHAT, chat(name as string));
      expect([name, status]).toEqual([name, 403]);
    }
    expect(await modelsOf(fixture)).toEqual([]);
    expect(hosted.requests).toEqual([]);
  });

  it('lets the default model answer for a hosted name that the sandbox may not use', async () => {
    const { hosted, local, toml } = await HOSTED();
    const { call } = await bridge(toml, { defaultModel: 'mine' });
    expect((await call(CHAT, chat('gpt-5-mini'))).status).toBe(200);
    expect([local.requests.length, hosted.requests.length]).toEqual([1, 0]);
  });

  it.each([[['gpt-5-mini']], [['all']]])('allows %s', async (allowHosted) => {
    const { hosted, toml } = await HOSTED();
    const fixture = await bridge(toml, { allowHosted });
    expect(await modelsOf(fixture)).toEqual(['gpt-5-mini', 'mine', 'own']);
    expect((await fixture.call(CHAT, chat('gpt-5-mini'))).status).toBe(200);
    expect(hosted.requests).toHaveLength(1);
  });

  it('falls back to a hosted model only for a sandbox that may use it', async () => {
    const { hosted, local, toml } = await HOSTED();
    local.answer((_, response) => sendJson(response, 503, { error: { message: 'down' } }));
    const fixture = await bridge(toml);
    expect((await fixture.call(CHAT, chat('mine'))).status).toBe(503);
    expect(hosted.requests).toEqual([]);
    fixture.port.setPolicy({ allowHosted: ['gpt-5-mini'] });
    const answer = await fixture.call(CHAT, chat('mine'));
    expect(contentOf(answer.body)).toBe('from hosted');
    expect(JSON.parse(hosted.requests[0]?.body ?? '')).toMatchObject({ model: 'gpt-5-mini' });
  });

  it('never falls back to a model outside the sandbox’s allowlist', async () => {
    const one = await mock('one');
    const two = await mock('two');
    one.answer((_, response) => sendJson(response, 500, { error: { message: 'down' } }));
    const fixture = await bridge(
      `
      [upstreams.one]
      url = "${one.target.baseUrl}"
      [upstreams.two]
      url = "${two.target.baseUrl}"
      [models.a]
      upstream = "one"
      fallback = ["b"]
      [models.b]
      upstream = "two"
    `,
      { allowModels: ['a'] },
    );
    expect((await fixture.call(CHAT, chat('a'))).status).toBe(500);
    expect(two.requests).toEqual([]);
    for (const policy of [
      {},
      { allowModels: ['a', 'b'] },
      { allowModels: ['a'], defaultModel: 'b' },
      { allowModels: ['a'], aliases: { x: 'b' } },
    ]) {
      fixture.port.setPolicy(policy);
      expect(contentOf((await fixture.call(CHAT, chat('a'))).body)).toBe('from two');
    }
  });
});

describe('bridge: usage of attempts', () => {
  it('counts no tokens for a request that one server refused and the next had no slot for', async () => {
    const limited = await mock('limited');
    limited.answer((_, response) => sendJson(response, 429, {}));
    const busy = await mock('busy');
    busy.answer((_, response) => startEvents(response));
    const { call, open, usage } = await bridge(
      `
      [upstreams.limited]
      url = "${limited.target.baseUrl}"
      [upstreams.busy]
      url = "${busy.target.baseUrl}"
      concurrency = 1
      [models.m]
      routes = [{ upstream = "limited", weight = 1000 }, { upstream = "busy" }]
      [models.long]
      upstream = "busy"
    `,
      {},
      { queue: { ...QUEUE_LIMITS, waitMsMax: 50 } },
    );
    const arrived = busy.next();
    open(CHAT, chat('long', { stream: true }));
    await arrived;
    const answer = await call(CHAT, chat('m'));
    expect([answer.status, errorOf(answer.body)['code']]).toEqual([503, 'queue_timeout']);
    await expect.poll(() => usage.length).toBe(1);
    expect(usage).toMatchObject([{ model: 'm', promptTokens: 0, completionTokens: 0 }]);
  });
});
