/** Model servers that break their streams or lie about usage: their resources are released, and counts stay correct. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CleanupStack } from '../../src/base/cleanup.ts';
import type { SentRequest, UpstreamTarget } from '../../src/inference/bridge/bridge.ts';
import type { RouteTable } from '../../src/inference/bridge/routing/route-table.ts';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { CLIENTS, damagedByte, damagedOrder, EVENTS, isHonest, pieces, SERVERS } from '../support/damaged-streams.ts';
import { type MockUpstream, sendJson, startEvents, startMockUpstream } from '../support/mock-upstream.ts';
import { randomFrom, runSeed } from '../support/run-seed.ts';

const APIS = ['openai', 'anthropic'] as const;
type Api = (typeof APIS)[number];
const MESSAGES = [{ role: 'user', content: 'hello' }];
/** Two reservations that are not released leave no room for another request. */
const LIMIT = 1_000_000;
const MOST = 400_000;
/** Path and body of each dialect, for an upstream that has the model. */
const ASKED: Readonly<Record<string, readonly [string, object]>> = {
  openai: ['/v1/chat/completions', { messages: MESSAGES, max_tokens: MOST }],
  anthropic: ['/v1/messages', { messages: MESSAGES, max_tokens: MOST }],
  responses: ['/v1/responses', { input: 'hello', max_output_tokens: MOST }],
  ollama: ['/api/chat', { messages: MESSAGES, options: { num_predict: MOST } }],
};
const PAIRS = Object.keys(ASKED).flatMap((name) => APIS.map((api) => [name, api] as const));
const PRICE = { input: 1_000_000, output: 2_000_000, cachedInput: 0 };

let cleanup: CleanupStack;
let mocks: Readonly<Record<Api, MockUpstream>>;
let fixture: BridgeFixture;
let logged: SentRequest[];
beforeEach(async () => {
  cleanup = new CleanupStack();
  mocks = { openai: await startMockUpstream(), anthropic: await startMockUpstream() };
  for (const api of APIS) cleanup.push(api, () => mocks[api].close());
  logged = [];
  const requestLog = { sent: (one: SentRequest) => logged.push(one), refused: () => undefined };
  const budget = { outputTokens: LIMIT };
  fixture = await bridgeFixture({ routes: table(), policy: { budget }, requestLog });
  cleanup.push('bridge', () => fixture.close());
});
afterEach(() => cleanup.run());

/** Each server has one slot, and a model of its name. */
function table(): RouteTable {
  const target = (api: Api): UpstreamTarget => ({ ...mocks[api].target, name: api, api, slots: 1 });
  return {
    upstreams: APIS.map((api) => ({
      name: api,
      target: () => Promise.resolve(target(api)),
      isHosted: false,
      answerWithinMs: null,
      discover: false,
      api,
    })),
    models: new Map(
      APIS.map((api) => [
        api,
        { routes: [{ upstream: api, model: api, weight: 1, price: PRICE }], fallback: [], fallbackOn: new Set() },
      ]),
    ),
  };
}

const ask = (name: string, api: Api, stream = true) => {
  const [path, body] = ASKED[name] ?? ['', {}];
  return fixture.call(path, { ...body, model: api, stream });
};

/** @param isCut breaks the connection instead of ending the stream */
function sendStream(api: Api, parts: readonly Buffer[], isCut = false): void {
  mocks[api].answer(async (_, response) => {
    startEvents(response);
    for (const part of parts) await new Promise((written) => response.write(part, written));
    if (isCut) response.destroy();
    else response.end();
  });
}

describe('a server whose streams are damaged', () => {
  it.each(PAIRS)('for clients of %s, server of %s: honest answers, and everything is released', async (name, api) => {
    const random = randomFrom(runSeed());
    const events = EVENTS[api];
    const whole = Buffer.from(events.join(''));
    const damage = [
      () => damagedByte(whole, random),
      () => damagedOrder(events, random),
      () => whole.subarray(0, Math.floor(random() * whole.length)),
    ];
    for (let i = 0; i < 12; i += 1) {
      const bytes = damage[i % damage.length]?.() ?? whole;
      sendStream(api, pieces(bytes, random), random() < 0.3);
      const { body, broken } = await ask(name, api);
      const seen = CLIENTS[name]?.(body);
      const sent = SERVERS[api](bytes.toString('utf8'));
      const isTold = seen !== undefined && !broken && isHonest(seen, sent);
      if (!isTold) expect.unreachable(`${bytes.toString('utf8')}\n---\n${body}`);
    }
    sendStream(api, [whole]);
    const last = CLIENTS[name]?.((await ask(name, api)).body);
    expect(last?.end).toBe('complete');
    expect(fixture.port.stats()).toMatchObject({ bodyBytes: 0, inFlight: 0 });
    expect(fixture.bridge.budgetUse('sandbox-a')).toMatchObject({ requests: 13 });
    expectNumbers();
  });
});

const LIES = [-5, 0.5, 1e308, '12', null, 0, {}, MOST + 1, Number.MAX_SAFE_INTEGER];

function expectNumbers(): void {
  const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && Number(value) >= 0;
  for (const { promptTokens, completionTokens, costNanoDollars } of logged) {
    expect([promptTokens, completionTokens, costNanoDollars].map(isCount)).toEqual([true, true, true]);
  }
  const use = fixture.bridge.budgetUse('sandbox-a');
  for (const value of Object.values(use ?? {})) expect(value === undefined || isCount(value)).toBe(true);
  const values = fixture.bridge.metrics().flatMap((metric) => metric.samples().map(({ value }) => value));
  expect(values.length).toBeGreaterThan(10);
  expect(values.filter((value) => !(Number.isFinite(value) && value >= 0))).toEqual([]);
}

describe('a server that lies about usage', () => {
  const event = (value: object): string => `data: ${JSON.stringify(value)}\n\n`;
  const text = 'twelve chars';
  const streams: Readonly<Record<Api, (lie: unknown) => string>> = {
    openai: (lie) =>
      event({ choices: [{ index: 0, delta: { content: text } }], usage: { prompt_tokens: lie } }) +
      event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }) +
      event({ choices: [], usage: { prompt_tokens: 3, completion_tokens: lie } }) +
      'data: [DONE]\n\n',
    anthropic: (lie) =>
      event({ type: 'message_start', message: { usage: { input_tokens: 3, output_tokens: lie } } }) +
      event({ type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } }) +
      event({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text } }) +
      event({
        type: 'message_delta',
        delta: { stop_reason: 'end_turn' },
        usage: { output_tokens: lie, cache_read_input_tokens: lie },
      }) +
      event({ type: 'message_stop' }),
  };
  const documents: Readonly<Record<Api, (lie: unknown) => object>> = {
    openai: (lie) => ({
      choices: [{ index: 0, message: { content: text }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 3, completion_tokens: lie },
    }),
    anthropic: (lie) => ({
      type: 'message',
      content: [{ type: 'text', text }],
      stop_reason: 'end_turn',
      usage: { input_tokens: 3, output_tokens: lie, cache_read_input_tokens: lie },
    }),
  };

  it.each(PAIRS)('to clients of %s, server of %s: an estimate replaces an invalid count', async (name, api) => {
    for (const lie of LIES) {
      if (Number(lie) > MOST) continue;
      sendStream(api, [Buffer.from(streams[api](lie))]);
      expect(CLIENTS[name]?.((await ask(name, api)).body)).toMatchObject({ end: 'complete', text });
      mocks[api].answer((_, response) => sendJson(response, 200, documents[api](lie)));
      expect((await ask(name, api, false)).status).toBe(200);
    }
    const stream = logged.filter((one) => one.stream);
    expect(stream.map(({ completionTokens }) => completionTokens)).toEqual(stream.map(() => 3));
    const plain = logged.filter((one) => !one.stream);
    // A plain answer of OpenAI's API that passes is not read.
    const untold = plain.filter(({ completionTokens }) => completionTokens === 0);
    expect(untold.length).toBe(name === 'openai' && api === 'openai' ? 1 : 0);
    expectNumbers();
  });

  it.each(PAIRS)(
    'to clients of %s, server of %s: an excessive count spends the budget, and no more',
    async (name, api) => {
      for (const lie of [MOST + 1, Number.MAX_SAFE_INTEGER]) {
        sendStream(api, [Buffer.from(streams[api](lie))]);
        await ask(name, api);
      }
      const refused = await ask(name, api);
      expect([refused.status, mocks[api].requests.length]).toEqual([429, 2]);
      expectNumbers();
    },
  );
});
