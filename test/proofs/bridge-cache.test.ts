/** No sandbox can infer prompts of another from the upstream's prompt cache. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import type { UpstreamTarget } from '../../src/inference/bridge/bridge.ts';
import { callerKey } from '../../src/inference/bridge/caller-key.ts';
import { startEngine } from '../../src/inference/engine/process.ts';
import { createEngineServer } from '../../src/inference/engine/server.ts';
import { Service } from '../../src/inference/engine/service.ts';
import { type Answered, type BridgeFixture, bridgeFixture, call } from '../support/bridge-fixture.ts';
import { completion, sendJson, startEvents, startMockUpstream } from '../support/mock-upstream.ts';
import { findModel } from '../support/model.ts';
import { requires } from '../support/requires.ts';
import { ScriptedBackend } from '../support/scripted-backend.ts';

let fixture: BridgeFixture;
const closers: (() => unknown)[] = [];
afterEach(async () => {
  await fixture?.close();
  for (const close of closers.splice(0)) await close();
});

const CHAT = '/v1/chat/completions';
const chat = (more: object = {}) => ({ model: 'm1', messages: [{ role: 'user', content: 'hello' }], ...more });

type Ask = (path: string, body: object) => Promise<Answered>;

/** Two sandboxes with the same upstream. */
async function neighbors(upstream: () => Promise<UpstreamTarget>): Promise<[Ask, Ask]> {
  fixture = await bridgeFixture({ upstream });
  const socketPath = join(fixture.dir, 'w_1025');
  await fixture.bridge.attach({ sandboxId: 'sandbox-b', socketPath });
  return [fixture.call, (path, body) => call(socketPath, path, body)];
}

async function saltsAt(ownedBy: string | undefined): Promise<(string | undefined)[]> {
  const mock = await startMockUpstream(ownedBy === undefined ? {} : { ownedBy });
  closers.push(() => mock.close());
  const [a, b] = await neighbors(async () => mock.target);
  for (const ask of [a, a, b]) expect((await ask(CHAT, chat())).status).toBe(200);
  return mock.requests.map(({ body }) => JSON.parse(body).cache_salt);
}

describe('bridge: salt of the cache', () => {
  it.each(['vllm', 'sglang', 'neurovisor'])('%s gets a salt per sandbox', async (ownedBy) => {
    const [first, again, other] = await saltsAt(ownedBy);
    expect(first).toMatch(/^[0-9a-f]{64}$/);
    expect(again).toBe(first);
    expect(other).toMatch(/^[0-9a-f]{64}$/);
    expect(other).not.toBe(first);
  });

  it.each(['openai', 'library', undefined])('%s gets no unknown field', async (ownedBy) => {
    expect(await saltsAt(ownedBy)).toEqual([undefined, undefined, undefined]);
  });

  it('a guest can’t choose a salt', async () => {
    const mock = await startMockUpstream({ ownedBy: 'vllm' });
    closers.push(() => mock.close());
    const [a] = await neighbors(async () => mock.target);
    const answer = await a(CHAT, chat({ cache_salt: 'of another' }));
    expect(answer.status).toBe(400);
    expect(mock.requests).toEqual([]);
  });

  it('labels of caches and users are the sandbox’s own', async () => {
    const mock = await startMockUpstream({});
    closers.push(() => mock.close());
    const [a, b] = await neighbors(async () => mock.target);
    const labels = { prompt_cache_key: 'x', user: 'x', safety_identifier: 'x' };
    for (const ask of [a, a, b]) expect((await ask(CHAT, chat(labels))).status).toBe(200);
    const [first, again, other] = mock.requests.map(({ body }) => {
      const { prompt_cache_key: key, user, safety_identifier: safety } = JSON.parse(body);
      return [key, user, safety];
    });
    expect(again).toEqual(first);
    const all = [...(first ?? []), ...(other ?? [])];
    expect(new Set(all).size).toBe(6);
    for (const label of all) expect(label).toMatch(/^[0-9a-f]{64}$/);
  });

  it('our engine isolates the prompts of two sandboxes, both ways, and reports no hits', async () => {
    const backend = new ScriptedBackend();
    const service = Promise.resolve(new Service(backend));
    const server = createEngineServer({ modelId: 'm1', service, log: silentLog, wall: () => 5_000 });
    const [a, b] = await neighbors(async () => ({
      name: 'engine',
      socketPath: join(fixture.dir, 'engine.sock'),
      models: ['m1'],
      modelOwner: 'neurovisor',
    }));
    await new Promise<void>((resolve) => server.listen(join(fixture.dir, 'engine.sock'), resolve));
    closers.push(() => server.close().closeAllConnections());
    const streamed = { stream: true, stream_options: { include_usage: true } };
    for (const ask of [a, b, a, b]) {
      const plain = await ask(CHAT, chat());
      expect(JSON.parse(plain.body).usage).toMatchObject({
        prompt_tokens: 1,
        prompt_tokens_details: { cached_tokens: 0 },
      });
      const events = await ask(CHAT, chat(streamed));
      expect(events.body).toContain('"cached_tokens":0');
      expect(events.body).not.toContain('"cached_tokens":1');
    }
    const salts = backend.requests.map(({ cacheSalt }) => cacheSalt);
    const [ofA, , ofB] = salts;
    expect(ofA).not.toBe(ofB);
    expect(salts).toEqual([ofA, ofA, ofB, ofB, ofA, ofA, ofB, ofB]);
  });
});

requires('model', findModel()).describe('bridge: the cache of a real engine', (model) => {
  async function askEngine() {
    const dir = await mkdtemp(join(tmpdir(), 'engine-'));
    closers.push(() => rm(dir, { recursive: true }));
    const engine = await startEngine({
      modelPath: model.path,
      modelId: 'm1',
      socketPath: join(dir, 'engine.sock'),
      gpu: 'cpu',
      contextTokens: 1_024,
      log: silentLog,
      clock: systemClock,
    });
    closers.unshift(() => engine.stop());
    await engine.ready;
    const target = { name: 'engine', models: ['m1'], modelOwner: 'neurovisor' };
    const asks = await neighbors(async () => ({ ...target, socketPath: engine.socketPath }));
    return { engine, asks };
  }

  it('a prompt of one sandbox is cached for it alone, both ways', async () => {
    const { engine, asks } = await askEngine();
    const ids = ['sandbox-a', 'sandbox-b'];
    const prompts = ['Alpha has a secret', 'My neighbor Bob has another'];
    for (const [n, ask] of asks.entries()) {
      const content = `${prompts[n]} of many tokens: one two three four five six seven eight nine ten.`;
      const body = chat({ messages: [{ role: 'user', content }], max_tokens: 2 });
      expect((await ask(CHAT, body)).status).toBe(200);
      // Cached tokens that the engine reports for each sandbox's salt.
      const cachedFor = async (id = ''): Promise<number> => {
        const salted = { ...body, cache_salt: callerKey(id, 'cache') };
        const answer = await call(engine.socketPath, CHAT, salted);
        return JSON.parse(answer.body).usage.prompt_tokens_details.cached_tokens;
      };
      expect(await cachedFor(ids[n])).toBeGreaterThan(20);
      // At most the chat template, from the sandbox's own earlier prompt.
      expect(await cachedFor(ids[1 - n])).toBeLessThan(8);
    }
  }, 120_000);

  it('a prompt that a neighbor has sent takes as long as a new one, both ways', async () => {
    const { asks } = await askEngine();
    const [a, b] = asks;
    let prompts = 0;
    const fresh = (): string => {
      prompts += 1;
      return `${prompts} ${Array.from({ length: 60 }, (_, n) => (n * 7919 * prompts) % 997).join(' ')}`;
    };
    /** Milliseconds until the answer of one token. */
    const timeOf = async (ask: Ask, content: string): Promise<number> => {
      const body = chat({ messages: [{ role: 'user', content }], max_tokens: 1 });
      const startedAt = performance.now();
      const answer = await ask(CHAT, body);
      const ms = performance.now() - startedAt;
      const { usage } = JSON.parse(answer.body);
      expect(usage.prompt_tokens).toBeGreaterThan(120);
      expect(usage.prompt_tokens_details.cached_tokens).toBe(0);
      return ms;
    };
    for (const [owner, neighbor] of [
      [a, b],
      [b, a],
    ] as const) {
      const times = { repeated: [] as number[], neighbors: [] as number[], unsent: [] as number[] };
      for (let round = 0; round < 2; round += 1) {
        const prompt = fresh();
        await timeOf(owner, prompt);
        times.repeated.push(await timeOf(owner, prompt));
        times.neighbors.push(await timeOf(neighbor, prompt));
        times.unsent.push(await timeOf(neighbor, fresh()));
      }
      // The shortest times: other load on the host only makes them longer.
      const unsent = Math.min(...times.unsent);
      // The control: the time does tell a cached prompt.
      expect(Math.min(...times.repeated)).toBeLessThan(unsent / 3);
      expect(Math.min(...times.neighbors)).toBeGreaterThan(unsent / 2);
    }
  }, 240_000);
});

describe('bridge: hints of the cache', () => {
  const counts = { prompt_tokens: 9, completion_tokens: 2 };
  const usage = { ...counts, prompt_tokens_details: { cached_tokens: 8 } };
  const timings = { cache_n: 8, prompt_ms: 1.5 };

  it('are masked in documents, whose counts stay right and whose length tells nothing', async () => {
    fixture = await bridgeFixture();
    const told = Object(completion('"cached_tokens": 8'));
    const body = JSON.stringify({ ...told, usage, timings });
    fixture.mock.answer((_, response) => {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
      response.write(body.slice(0, -30));
      setTimeout(() => response.end(body.slice(-30)), 20);
    });
    const settled = fixture.nextUsage();
    const answer = await fixture.call(CHAT, chat());
    expect(answer.broken).toBe(false);
    expect(answer.headers['content-length']).toBeUndefined();
    expect(answer.body).toContain('"cached_tokens":0}}');
    expect(JSON.parse(answer.body)).toEqual({
      ...told,
      usage: { ...counts, prompt_tokens_details: { cached_tokens: 0 } },
      timings: {},
    });
    expect(await settled).toMatchObject({ promptTokens: 9, estimated: false });
  });

  it.each([1, 5, 1000])('are masked in streams, %i bytes at a time', async (size) => {
    fixture = await bridgeFixture();
    const choices = [{ delta: { content: 'x' }, finish_reason: 'stop' }];
    const text = `: "a\n\ndata: ${JSON.stringify({ choices, usage, timings })}\n\ndata: [DONE]\n\n`;
    fixture.mock.answer(async (_, response) => {
      startEvents(response);
      for (let at = 0; at < text.length; at += size) {
        response.write(text.slice(at, at + size));
        await new Promise(setImmediate);
      }
      response.end();
    });
    const answer = await fixture.call(CHAT, chat({ stream: true }));
    expect(answer.body).toBe(
      text.replace('"cached_tokens":8', '"cached_tokens":0').replace(/"timings":\{.*?\}/, '"timings":{}'),
    );
  });

  it('pass where the owner of the host shows them', async () => {
    fixture = await bridgeFixture({ policy: { showCacheHits: true } });
    const choices = [{ delta: { content: 'x' }, finish_reason: 'stop' }];
    const text = `data: ${JSON.stringify({ choices, usage, timings })}\n\ndata: [DONE]\n\n`;
    const told = { ...Object(completion('hi')), usage, timings };
    fixture.mock.answer(({ body }, response) => {
      if (!body.includes('"stream":true')) {
        response.writeHead(200, { 'content-type': 'application/json' });
        response.end(JSON.stringify(told));
        return;
      }
      startEvents(response);
      response.end(text);
    });
    expect(JSON.parse((await fixture.call(CHAT, chat())).body)).toEqual(told);
    expect((await fixture.call(CHAT, chat({ stream: true }))).body).toBe(text);
  });

  it('are masked in an event that is larger than the buffer, after a comment with a quote', async () => {
    fixture = await bridgeFixture({ policy: { limits: { eventBytesMax: 50 } } });
    const long = { choices: [{ delta: { content: 'y'.repeat(200) }, finish_reason: 'stop' }], usage };
    const text = `: "a\n\ndata: ${JSON.stringify(long)}\n\ndata: [DONE]\n\n`;
    fixture.mock.answer(async (_, response) => {
      startEvents(response);
      for (const part of [text.slice(0, 150), text.slice(150)]) {
        response.write(part);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      response.end();
    });
    const answer = await fixture.call(CHAT, chat({ stream: true }));
    expect(answer.body).toBe(text.replace('"cached_tokens":8', '"cached_tokens":0'));
  });

  it.each([false, true])('a compressed answer is refused (stream: %s)', async (stream) => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_, response) => sendJson(response, 200, completion('x'), { 'content-encoding': 'gzip' }));
    const answer = await fixture.call(CHAT, chat({ stream }));
    expect([answer.status, JSON.parse(answer.body).error.code]).toEqual([502, 'upstream_protocol']);
  });
});
