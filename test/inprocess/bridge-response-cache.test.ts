/** The cache of answers over a real bridge: which answers are served again, to whom, and which never. */
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { MetricRegistry } from '../../src/base/metrics.ts';
import type { BridgePolicy, UpstreamTarget, UsageRecord } from '../../src/inference/bridge/bridge.ts';
import type { RoutedUpstream, RouteTable } from '../../src/inference/bridge/routing/route-table.ts';
import { Recorder } from '../../src/inference/bridge/tape/recorder.ts';
import { type Answered, type BridgeFixture, bridgeFixture, call, open } from '../support/bridge-fixture.ts';
import {
  type Answer,
  completion,
  delta,
  done,
  finish,
  type MockUpstream,
  sendJson,
  startEvents,
  startMockUpstream,
  usageEvent,
} from '../support/mock-upstream.ts';

const CHAT = '/v1/chat/completions';
const MESSAGES = '/v1/messages';
const HEADER = 'x-neurovisor-cache';
const CACHE: BridgePolicy = { cache: { ttlMs: 60_000 } };
const chat = (text: string, more: object = {}) => ({
  model: 'm1',
  messages: [{ role: 'user', content: text }],
  temperature: 0,
  ...more,
});

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

type Options = NonNullable<Parameters<typeof bridgeFixture>[0]>;
async function bridge(options: Options = {}): Promise<BridgeFixture> {
  const fixture = await bridgeFixture({ policy: CACHE, ...options });
  closers.push(() => fixture.close());
  fixture.mock.answer(counting());
  return fixture;
}

/** Answers are numbered, so that a cached one is recognizable. */
function counting(): Answer {
  let count = 0;
  return ({ body }, response) => {
    count += 1;
    const asked = JSON.parse(body);
    if (asked.input !== undefined) {
      const data = [{ index: 0, embedding: [count, 0.5] }];
      sendJson(response, 200, { object: 'list', data, usage: { prompt_tokens: 2 } });
    } else if (asked.stream === true) {
      startEvents(response);
      response.write(delta(`answer `));
      response.write(delta(`${count}`));
      response.end(finish + usageEvent + done);
    } else sendJson(response, 200, completion(`answer ${count}`));
  };
}

const marks = (answers: readonly Answered[]): unknown[] => answers.map(({ headers }) => headers[HEADER]);

async function twice(ask: () => Promise<Answered>): Promise<[Answered, Answered]> {
  return [await ask(), await ask()];
}

async function neighbor(
  { bridge: host, dir }: BridgeFixture,
  sandboxId: string,
  policy: BridgePolicy = CACHE,
): Promise<(path: string, body: unknown) => Promise<Answered>> {
  const socketPath = join(dir, `${sandboxId}_1025`);
  await host.attach({ sandboxId, socketPath, policy });
  return (path, body) => call(socketPath, path, body);
}

describe('an equal request', () => {
  const asks: Record<string, [path: string, body: object]> = {
    'OpenAI, plain': [CHAT, chat('a')],
    'OpenAI, streamed': [CHAT, chat('a', { stream: true })],
    'OpenAI, streamed with usage': [CHAT, chat('a', { stream: true, stream_options: { include_usage: true } })],
    'completions, plain': ['/v1/completions', { model: 'm1', prompt: 'a', seed: 7 }],
    'Anthropic, plain': [MESSAGES, { ...chat('a'), max_tokens: 9 }],
    'Anthropic, streamed': [MESSAGES, { ...chat('a'), max_tokens: 9, stream: true }],
    'Ollama, plain': [
      '/api/chat',
      { ...chat('a'), temperature: undefined, options: { temperature: 0 }, stream: false },
    ],
    'Ollama, streamed': ['/api/generate', { model: 'm1', prompt: 'a', options: { seed: 3 } }],
    'Responses, plain': ['/v1/responses', { model: 'm1', input: 'a', temperature: 0 }],
    'Responses, streamed': ['/v1/responses', { model: 'm1', input: 'a', temperature: 0, stream: true }],
    embeddings: ['/v1/embeddings', { model: 'm1', input: 'a' }],
    'Ollama, embeddings': ['/api/embed', { model: 'm1', input: 'a' }],
  };

  it.each(Object.entries(asks))('%s: gets the first answer again', async (_, [path, body]) => {
    const { call: ask, mock, usage } = await bridge();
    const [first, again] = await twice(() => ask(path, body));
    expect([first.status, again.status]).toEqual([200, 200]);
    expect(marks([first, again])).toEqual(['miss', 'hit']);
    expect(again.headers['content-type']).toBe(first.headers['content-type']);
    expect(again.broken).toBe(false);
    expect(withoutIds(again.body)).toBe(withoutIds(first.body));
    expect(first.body).toMatch(/answer|\[1,0\.5\]|"text"|delta/);
    expect(mock.requests).toHaveLength(1);
    await expect.poll(() => usage).toHaveLength(2);
    expect(usage[1]).toMatchObject({
      cached: true,
      promptTokens: 0,
      completionTokens: 0,
      estimated: false,
      outcome: 'ok',
      status: 200,
      model: 'm1',
    });
    expect(usage[0]).not.toHaveProperty('cached');
  });

  it('distinguishes a stream from a whole answer', async () => {
    const { call: ask, mock } = await bridge();
    const bodies = [chat('a'), chat('a', { stream: true }), chat('a', { stream: false })];
    const answers: Answered[] = [];
    for (const body of bodies) answers.push(await ask(CHAT, body));
    expect(marks(answers)).toEqual(['miss', 'miss', 'hit']);
    expect(mock.requests).toHaveLength(2);
  });

  it('may have its keys in another order, another user, and an alias of the model', async () => {
    const { call: ask, mock } = await bridge({ policy: { ...CACHE, aliases: { mine: 'm1' } } });
    await ask(CHAT, chat('a', { user: 'x', seed: 1 }));
    const { model: _, ...rest } = chat('a');
    const again = await ask(CHAT, { seed: 1, ...rest, user: 'y', model: 'mine' });
    expect(again.headers[HEADER]).toBe('hit');
    expect(mock.requests).toHaveLength(1);
  });

  it.each<[string, object]>([
    ['text', { messages: [{ role: 'user', content: 'b' }] }],
    ['a field', { max_tokens: 5 }],
    ['the order of a schema', schema({ b: 1, a: 1 })],
    ['the model', { model: 'm2' }],
    ['the seed', { seed: 2 }],
  ])('differs by %s: reaches the model server', async (_, change) => {
    const { call: ask } = await bridge();
    await ask(CHAT, chat('a', { ...schema({ a: 1, b: 1 }), seed: 1 }));
    const other = await ask(CHAT, chat('a', { ...schema({ a: 1, b: 1 }), seed: 1, ...change }));
    expect(other.headers[HEADER]).toBe('miss');
  });

  it('in another API reaches the model server, since its answer has another form', async () => {
    const { call: ask } = await bridge();
    await ask(CHAT, chat('a', { max_tokens: 9 }));
    expect((await ask(MESSAGES, chat('a', { max_tokens: 9 }))).headers[HEADER]).toBe('miss');
  });
});

function schema(properties: object): object {
  const json_schema = { name: 's', schema: { type: 'object', properties } };
  return { response_format: { type: 'json_schema', json_schema } };
}

/** Ids and times differ in each answer, as do those of the stored answer. */
function withoutIds(body: string): string {
  return body
    .replace(/(resp|msg|rs|fc)_[0-9a-f]+/g, '$1')
    .replace(/"(created_at|completed_at|created|\w+_duration)":("[^"]*"|[\d.]+)/g, '"$1":0');
}

describe('participating requests', () => {
  const tools = [{ type: 'function', function: { name: 'f', parameters: {} } }];
  const big = '{"model":"m1","temperature":0,"messages":[],"seed":18446744073709551615}';
  it.each<[string, unknown]>([
    ['without a temperature', { ...chat('a'), temperature: undefined }],
    ['with a temperature', chat('a', { temperature: 0.1 })],
    ['with tools', chat('a', { tools })],
    ['with several answers', chat('a', { n: 2 })],
    ['with a number that has more digits than ours', big],
  ])('none %s', async (_, body) => {
    const { call: ask, mock } = await bridge();
    const answers = await twice(() => ask(CHAT, body));
    expect(answers.map(({ status }) => status)).toEqual([200, 200]);
    expect(marks(answers)).toEqual([undefined, undefined]);
    expect(mock.requests).toHaveLength(2);
  });

  it('`all`: also requests with a temperature and tools, but none with several answers', async () => {
    const policy: BridgePolicy = { cache: { ttlMs: 60_000, requests: 'all' } };
    const { call: ask } = await bridge({ policy });
    const warm = chat('a', { tools, temperature: 1 });
    expect(marks(await twice(() => ask(CHAT, warm)))).toEqual(['miss', 'hit']);
    const several = await twice(() => ask(CHAT, { ...warm, n: 2 }));
    expect(marks(several)).toEqual([undefined, undefined]);
  });

  it('none that continues an answer; a hit is stored as an answer of its own', async () => {
    const { call: ask, mock } = await bridge();
    const first = { model: 'm1', input: 'a', temperature: 0 };
    const ids = (await twice(() => ask('/v1/responses', first))).map(({ body }): string => JSON.parse(body).id);
    expect(new Set(ids).size).toBe(2);
    const next = { ...first, input: 'b', previous_response_id: ids[1] };
    expect(marks(await twice(() => ask('/v1/responses', next)))).toEqual([undefined, undefined]);
    expect(mock.requests).toHaveLength(3);
    expect(JSON.parse(mock.requests[2]?.body ?? '').messages.at(-2).content).toBe('answer 1');
  });

  it('none of a sandbox without the cache, whose answers have no header', async () => {
    const fixture = await bridge();
    const without = await neighbor(fixture, 'b', {});
    await fixture.call(CHAT, chat('a'));
    const answers = await twice(() => without(CHAT, chat('a')));
    expect(marks(answers)).toEqual([undefined, undefined]);
    expect(answers.map(({ body }) => JSON.parse(body).choices[0].message.content)).toEqual(['answer 2', 'answer 3']);
  });

  it('none while a cassette records, which has each request', async () => {
    const tape = new Recorder();
    const { call: ask } = await bridge({ tape });
    expect(marks(await twice(() => ask(CHAT, chat('a'))))).toEqual([undefined, undefined]);
    expect(tape.answeredCount).toBe(2);
  });

  it('a header that shapes the answer counts', async () => {
    const { call: ask } = await bridge();
    const body = chat('a', { max_tokens: 9 });
    await ask(MESSAGES, body, { 'anthropic-version': '2023-06-01' });
    const other = await ask(MESSAGES, body, {
      'anthropic-version': '2023-06-01',
      'anthropic-beta': 'effort-2025-11-24',
    });
    expect(other.headers[HEADER]).toBe('miss');
  });
});

describe('tenants', () => {
  it('share neither answers nor requests', async () => {
    const tenants: Record<string, string | null> = { 'sandbox-a': 'a', b: 'b', c: null, d: 'a' };
    const fixture = await bridge({ tenantOf: (id) => tenants[id] ?? null });
    const others: ((path: string, body: unknown) => Promise<Answered>)[] = [];
    for (const id of ['b', 'c', 'd']) others.push(await neighbor(fixture, id));
    const answers = [await fixture.call(CHAT, chat('secret'))];
    for (const ask of others) answers.push(await ask(CHAT, chat('secret')));
    expect(marks(answers)).toEqual(['miss', 'miss', 'miss', 'hit']);
    expect(fixture.mock.requests).toHaveLength(3);
  });

  it('a tenant that reuses the name of a removed one gets none of its answers', async () => {
    let scope = 'acme 1';
    const fixture = await bridge({ tenantOf: () => 'acme', cacheScopeOf: () => scope });
    const first = await twice(() => fixture.call(CHAT, chat('a')));
    scope = 'acme 2';
    expect(marks([...first, await fixture.call(CHAT, chat('a'))])).toEqual(['miss', 'hit', 'miss']);
  });

  it('sandboxes without a tenant share, each respecting its own maximum age', async () => {
    const clock = jumping();
    const fixture = await bridge({ clock });
    const strict = await neighbor(fixture, 'b', { cache: { ttlMs: 1000 } });
    await fixture.call(CHAT, chat('a'));
    clock.jump(1000);
    const answers = [await fixture.call(CHAT, chat('a')), await strict(CHAT, chat('a'))];
    expect(marks(answers)).toEqual(['hit', 'miss']);
    clock.jump(60_000);
    expect((await fixture.call(CHAT, chat('a'))).headers[HEADER]).toBe('miss');
  });

  it('fill no more than the memory, and the others keep their share', async () => {
    const tenantOf = (id: string): string => id;
    const fixture = await bridge({ tenantOf, cacheBytes: 12_000 });
    const small = await neighbor(fixture, 'small');
    await small(CHAT, chat('mine'));
    for (let i = 0; i < 30; i += 1) await fixture.call(CHAT, chat(`${i}`));
    expect((await small(CHAT, chat('mine'))).headers[HEADER]).toBe('hit');
    const metrics = new MetricRegistry();
    metrics.add(...fixture.bridge.metrics());
    const text = await metrics.text();
    const value = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1]);
    expect(value('neurovisor_model_cache_bytes')).toBeLessThanOrEqual(12_000);
    expect(value('neurovisor_model_cache_answers')).toBeGreaterThan(5);
    expect(text).toContain('neurovisor_model_cache_requests_total{result="hit"} 1');
    expect(text).toContain('neurovisor_model_cache_requests_total{result="miss"} 31');
  });
});

/** The system's clock, but it can jump. */
function jumping() {
  let byMs = 0;
  return {
    ...systemClock,
    now: () => systemClock.now() + byMs,
    jump: (ms: number): void => {
      byMs += ms;
    },
  };
}

describe('checks before a hit', () => {
  it('the models that the sandbox may use', async () => {
    const fixture = await bridge();
    await fixture.call(CHAT, chat('a'));
    fixture.port.setPolicy({ ...CACHE, allowModels: ['m2'] });
    const refused = await fixture.call(CHAT, chat('a'));
    expect([refused.status, JSON.parse(refused.body).error.code]).toEqual([404, 'model_not_found']);
  });

  it('whether prompts for a model may leave the host', async () => {
    const server = await upstream('far');
    const table = tableOf({ far: server }, ['far']);
    const fixture = await bridge({ routes: table, policy: { ...CACHE, allowHosted: ['all'] } });
    expect(marks(await twice(() => fixture.call(CHAT, chat('a'))))).toEqual(['miss', 'hit']);
    fixture.port.setPolicy(CACHE);
    expect((await fixture.call(CHAT, chat('a'))).status).toBe(403);
  });

  it('no budget: a hit costs nothing and needs no slot', async () => {
    const policy: BridgePolicy = { ...CACHE, budget: { requests: 1 } };
    const fixture = await bridge({ policy });
    const answers = await twice(() => fixture.call(CHAT, chat('a')));
    expect(marks(answers)).toEqual(['miss', 'hit']);
    expect((await fixture.call(CHAT, chat('b'))).status).toBe(429);
    expect(fixture.bridge.budgetUse('sandbox-a')).toMatchObject({ requests: 1 });
  });
});

async function upstream(name: string): Promise<MockUpstream> {
  const server = await startMockUpstream({});
  closers.push(() => server.close());
  server.answer((_, response) => sendJson(response, 200, completion(`from ${name}`)));
  return server;
}

/** Model `m1` at each of these servers, preferring the first. */
function tableOf(
  servers: Readonly<Record<string, MockUpstream>>,
  hosted: readonly string[] = [],
): RouteTable & { upstreams: RoutedUpstream[] } {
  const names = Object.keys(servers);
  return {
    upstreams: Object.entries(servers).map(([name, { target }]) => routed(name, target, hosted)),
    models: new Map([
      ...names.map(
        (upstream, index) =>
          [
            index === 0 ? 'm1' : `m1-${index}`,
            {
              routes: [{ upstream, model: 'm1', weight: 1 }],
              fallback: index === 0 ? names.slice(1).map((_, other) => `m1-${other + 1}`) : [],
              fallbackOn: new Set(['connect', '5xx'] as const),
            },
          ] as const,
      ),
    ]),
  };
}

const routed = (name: string, target: UpstreamTarget, hosted: readonly string[] = []): RoutedUpstream => ({
  name,
  target: async () => target,
  isHosted: hosted.includes(name),
  answerWithinMs: null,
  discover: false,
});

const textOf = ({ body }: Answered): string => JSON.parse(body).choices[0].message.content;

describe('a changed route', () => {
  it('never answers with the text of the previous server', async () => {
    const [before, after] = [await upstream('before'), await upstream('after')];
    const table = tableOf({ one: before });
    const { call: ask } = await bridge({ routes: table });
    expect((await twice(() => ask(CHAT, chat('a')))).map(textOf)).toEqual(['from before', 'from before']);
    // `models.toml` assigns the same name to another server.
    table.upstreams = [routed('one', after.target)];
    const answers = await twice(() => ask(CHAT, chat('a')));
    expect(answers.map(textOf)).toEqual(['from after', 'from after']);
    expect(marks(answers)).toEqual(['miss', 'hit']);
  });

  it('nor if another server replaces the only one of a host', async () => {
    const [before, after] = [await upstream('before'), await upstream('after')];
    let target = before.target;
    const { call: ask } = await bridge({ upstream: async () => target });
    await ask(CHAT, chat('a'));
    target = after.target;
    const answer = await ask(CHAT, chat('a'));
    expect([answer.headers[HEADER], textOf(answer)]).toEqual(['miss', 'from after']);
  });

  it('while a request is in flight: its answer is cached for neither', async () => {
    const [before, after] = [await upstream('before'), await upstream('after')];
    let release = (): void => undefined;
    before.answer((_, response) => {
      release = () => sendJson(response, 200, completion('from before'));
    });
    const table = tableOf({ one: before });
    const { call: ask } = await bridge({ routes: table });
    const asked = before.next();
    const first = ask(CHAT, chat('a'));
    await asked;
    table.upstreams = [routed('one', after.target)];
    release();
    expect(textOf(await first)).toBe('from before');
    expect(textOf(await ask(CHAT, chat('a')))).toBe('from after');
  });

  it('an answer of a fallback is not cached: the requested model answers again', async () => {
    const [main, spare] = [await upstream('main'), await upstream('spare')];
    main.answer((_, response) => sendJson(response, 500, { error: 'broken' }));
    const { call: ask } = await bridge({ routes: tableOf({ main, spare }) });
    expect(textOf(await ask(CHAT, chat('a')))).toBe('from spare');
    main.answer((_, response) => sendJson(response, 200, completion('from main')));
    const answer = await ask(CHAT, chat('a'));
    expect([answer.headers[HEADER], textOf(answer)]).toEqual(['miss', 'from main']);
  });
});

describe('an answer that is not cached', () => {
  const bad: Record<string, Answer> = {
    'an error': (_, response) => sendJson(response, 400, { error: { message: 'no' } }),
    'an error with status 200': (_, response) => sendJson(response, 200, { error: { message: 'no' } }),
    'an error of Anthropic’s API with status 200': (_, response) =>
      sendJson(response, 200, { type: 'error', error: { message: 'no' } }),
    'an error of vLLM with status 200': (_, response) => sendJson(response, 200, { object: 'error', message: 'no' }),
    'one whose end is that of its connection': (_, response) => {
      response.shouldKeepAlive = false;
      response.useChunkedEncodingByDefault = false;
      response.removeHeader('transfer-encoding');
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify(completion('half')).slice(0, -9));
    },
    'one that broke off': (_, response) => {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': '100' });
      response.write('{"choices":');
      setImmediate(() => response.destroy());
    },
    'a stream that broke off': (_, response) => {
      startEvents(response);
      response.write(delta('half'));
      setImmediate(() => response.destroy());
    },
    'a stream without an end': (_, response) => {
      startEvents(response);
      response.end(delta('half'));
    },
    'a stream with an error': (_, response) => {
      startEvents(response);
      response.end(`data: {"error":{"message":"no"}}\n\n${done}`);
    },
    'one that is too long': (_, response) => sendJson(response, 200, completion('x'.repeat(5 * 1024 * 1024))),
  };
  it.each(Object.entries(bad))('%s', async (name, answer) => {
    const { call: ask, mock } = await bridge();
    mock.answer(answer);
    const body = chat('a', { stream: name.includes('stream') });
    const first = await ask(CHAT, body).catch(() => null);
    mock.answer(counting());
    const second = await ask(CHAT, body);
    expect([first?.headers[HEADER] ?? 'miss', second.headers[HEADER]]).toEqual(['miss', 'miss']);
    expect((await ask(CHAT, body)).headers[HEADER]).toBe('hit');
  });

  it('one that the guest canceled', async () => {
    const { socketPath, mock, call: ask, nextUsage } = await bridge();
    mock.answer((_, response) => {
      startEvents(response);
      response.write(delta('half'));
    });
    const body = chat('a', { stream: true });
    const left = open(socketPath, CHAT, body);
    await left.until('half');
    const usage = nextUsage();
    left.abort();
    expect((await usage).outcome).toBe('cancelled');
    mock.answer(counting());
    expect((await ask(CHAT, body)).headers[HEADER]).toBe('miss');
    expect((await ask(CHAT, body)).headers[HEADER]).toBe('hit');
  });

  it('one that the budget shortened', async () => {
    const policy: BridgePolicy = { ...CACHE, budget: { outputTokens: 50 } };
    const { call: ask, mock } = await bridge({ policy });
    const usage = { prompt_tokens: 3, completion_tokens: 50 };
    const cut = { ...(completion('cut off') as object), usage };
    mock.answer((_, response) => sendJson(response, 200, cut));
    expect((await ask(CHAT, chat('a'))).status).toBe(200);
    expect(JSON.parse(mock.requests[0]?.body ?? '').max_tokens).toBe(50);
    expect((await ask(CHAT, chat('a'))).status).toBe(429);
  });

  it('but one that is shorter than the budget allows is cached', async () => {
    const policy: BridgePolicy = { ...CACHE, budget: { outputTokens: 50 } };
    const { call: ask, mock } = await bridge({ policy });
    expect(marks(await twice(() => ask(CHAT, chat('a'))))).toEqual(['miss', 'hit']);
    expect(JSON.parse(mock.requests[0]?.body ?? '').max_tokens).toBe(50);
  });

  it('any, in a cache without memory', async () => {
    const { call: ask } = await bridge({ cacheBytes: 0 });
    expect(marks(await twice(() => ask(CHAT, chat('a'))))).toEqual(['miss', 'miss']);
  });
});

describe('hits', () => {
  it('hide the host’s key that the server echoed, and report no hits of the server’s own cache', async () => {
    const { call: ask, mock } = await bridge({ apiKey: 'key-of-the-host' });
    const usage = { prompt_tokens: 3, prompt_tokens_details: { cached_tokens: 2 } };
    const answer = { ...(completion('key-of-the-host') as object), usage };
    mock.answer((_, response) => sendJson(response, 200, answer));
    const [first, again] = await twice(() => ask(CHAT, chat('a')));
    expect(again.body).toBe(first.body);
    expect(again.body).not.toContain('key-of-the-host');
    expect(again.body).not.toContain('"cached_tokens":2');
  });

  it('count as cancelled if the guest disconnects, and do no harm', async () => {
    const { socketPath, call: ask, mock, usage } = await bridge();
    const large = 'x'.repeat(3 * 1024 * 1024);
    mock.answer((_, response) => sendJson(response, 200, completion(large)));
    await ask(CHAT, chat('a'));
    const left = open(socketPath, CHAT, chat('a'));
    const head = await left.head;
    expect(head.headers[HEADER]).toBe('hit');
    head.pause();
    left.abort();
    await expect.poll(() => usage.map((one: UsageRecord) => one.cached ?? false)).toEqual([false, true]);
    expect((await ask(CHAT, chat('a'))).body).toContain(large);
    expect(mock.requests).toHaveLength(1);
  });

  it('concurrent equal requests each reach the server, and all later ones are hits', async () => {
    const { call: ask, mock } = await bridge();
    const answers = await Promise.all([1, 2, 3].map(() => ask(CHAT, chat('a'))));
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
    const before = mock.requests.length;
    expect((await ask(CHAT, chat('a'))).headers[HEADER]).toBe('hit');
    expect(mock.requests).toHaveLength(before);
  });

  it('bodies that are checked in a thread behave the same', async () => {
    const { call: ask } = await bridge();
    const body = chat('long '.repeat(20_000));
    expect(marks(await twice(() => ask(CHAT, body)))).toEqual(['miss', 'hit']);
  });
});
