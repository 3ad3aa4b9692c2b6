/** Model servers that speak Anthropic's Messages, behind the bridge, over real sockets. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Player } from '../../src/inference/bridge/tape/player.ts';
import { Recorder } from '../../src/inference/bridge/tape/recorder.ts';
import { bridgeFixture } from '../support/bridge-fixture.ts';
import { type MessageEvent, messageEvents, sendMessage, sseOf } from '../support/messages.ts';
import { type MockUpstream, sendJson, startEvents } from '../support/mock-upstream.ts';
import { type Forwarder, forwardTo, nodeAnthropic, pythonAnthropic, runScenario } from '../support/model-clients.ts';
import { requires } from '../support/requires.ts';
import { errorOf, CLAUDE_KEY as KEY, sentTo, type TwoApis, twoApis } from '../support/two-apis.ts';

const PATH = '/v1/messages';
const ask = (more: Record<string, unknown> = {}) => ({
  model: 'm1',
  max_tokens: 100,
  messages: [{ role: 'user', content: 'hello' }],
  ...more,
});

let world: TwoApis;
let claude: MockUpstream;
let local: MockUpstream;
let bridge: TwoApis['bridge'];
beforeEach(async () => {
  world = await twoApis();
  ({ claude, local, bridge } = world);
});
afterEach(() => world.cleanup.run());

const sent = (mock: MockUpstream = claude) => sentTo(mock);
const eventsOf = (text: string): MessageEvent[] =>
  text
    .split('\n\n')
    .filter((event) => event !== '')
    .map((event) => JSON.parse(event.split('\ndata: ')[1] ?? '') as MessageEvent);
const HIDDEN = {
  input_tokens: 11,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
  cache_creation: null,
  output_tokens: 7,
  service_tier: 'standard',
};

describe('bridge: Messages at an upstream of Anthropic’s API', () => {
  it('passes the body byte for byte, but for the model’s name, with the host’s key alone', async () => {
    const fixture = await bridge({ aliases: { opus: 'm1' } });
    const settled = fixture.nextUsage();
    const body = '{ "max_tokens" : 100, "model":"opus",\n"messages":[{"role":"user","content":"\\u00e4"}] }';
    const answer = await fixture.call(`${PATH}?beta=true`, body, {
      'anthropic-version': '2023-01-01',
      'anthropic-beta': 'interleaved-thinking-2025-05-14,context-1m-2025-08-07',
      'x-api-key': 'guest-key',
      authorization: 'Bearer guest-key',
    });
    expect(answer).toMatchObject({ status: 200, broken: false });
    expect(answer.headers).toMatchObject({ 'request-id': 'req_1' });
    expect(claude.requests[0]).toMatchObject({
      path: '/v1/messages',
      body: body.replace('"opus"', '"m1"'),
      headers: {
        'x-api-key': KEY,
        'anthropic-version': '2023-01-01',
        'anthropic-beta': 'interleaved-thinking-2025-05-14',
      },
    });
    expect(JSON.stringify(claude.requests[0]?.headers)).not.toMatch(/guest-key|Bearer/);
    const message = JSON.parse(answer.body);
    expect(message).toMatchObject({ id: 'msg_01', content: [{ type: 'text', text: 'hi there' }] });
    expect(message.usage).toEqual(HIDDEN);
    expect(await settled).toMatchObject({
      model: 'm1',
      promptTokens: 11,
      completionTokens: 7,
      estimated: false,
      outcome: 'ok',
    });
  });

  it.each([
    ['latest', 'a b'],
    ['2023-06-01, 2024-01-01', 'x'.repeat(65)],
    ['2023-06-01x', 'a,,b'],
  ])('sends its own version for %j, and no beta like %j', async (version, beta) => {
    const { call } = await bridge();
    await call(PATH, ask(), { 'anthropic-version': version, 'anthropic-beta': beta });
    expect(claude.requests[0]?.headers).toMatchObject({ 'anthropic-version': '2023-06-01' });
    expect(claude.requests[0]?.headers).not.toHaveProperty('anthropic-beta');
  });

  it('passes a stream byte for byte, but for what tells cache hits, and counts its usage', async () => {
    const fixture = await bridge();
    const events = messageEvents({ reasoning: 'let me see', text: 'héllo wörld 🙂' }, 4);
    // A comment and CRLF, to see that nothing is written anew.
    const tail = ': note\r\n\r\n';
    claude.answer((_, response) => {
      startEvents(response);
      response.end(sseOf(events.slice(0, -2)) + tail + sseOf(events.slice(-2)));
    });
    const settled = fixture.nextUsage();
    const { body, headers } = await fixture.call(PATH, ask({ stream: true }));
    expect(headers['content-type']).toMatch(/^text\/event-stream/);
    expect(body.slice(body.indexOf('event: content_block_start'))).toBe(
      sseOf(events.slice(1, -2)) +
        tail +
        sseOf([{ ...(events.at(-2) as MessageEvent), usage: HIDDEN }, { type: 'message_stop' }]),
    );
    expect(eventsOf(body)[0]).toMatchObject({
      type: 'message_start',
      message: { usage: { ...HIDDEN, output_tokens: 1 } },
    });
    expect(await settled).toMatchObject({
      promptTokens: 11,
      completionTokens: 7,
      estimated: false,
      stream: true,
      outcome: 'ok',
    });
  });

  it('a hit in the cache changes no byte of an answer, however the server writes its JSON', async () => {
    const { call } = await bridge();
    const usages = [
      [{ input_tokens: 11 }, { input_tokens: 11 }],
      [
        { input_tokens: 11, cache_read_input_tokens: 0 },
        { input_tokens: 11, cache_read_input_tokens: 0 },
      ],
      [
        { cache_read_input_tokens: 9, input_tokens: 2 },
        { input_tokens: 2, cache_read_input_tokens: null },
      ],
    ];
    const bodies = { streamed: new Set<string>(), whole: new Set<string>() };
    for (const [start, last] of usages) {
      const plain = { type: 'message', content: [], usage: { ...start, output_tokens: 7 } };
      const events = [
        { type: 'message_start', message: { id: 'msg_01', usage: { ...start, output_tokens: 1 } } },
        { type: 'message_delta', delta: {}, usage: { ...last, output_tokens: 7 } },
        { type: 'message_stop' },
      ];
      claude.answer(({ body }, response) => {
        const isStream = body.includes('"stream"');
        if (isStream) startEvents(response);
        else response.setHeader('content-type', 'application/json');
        const spaced = (value: unknown) => JSON.stringify(value, null, 1).replaceAll('\n', '');
        const sse = events.map((event) => `event: ${event.type}\ndata: ${spaced(event)}\n\n`);
        response.end(isStream ? sse.join('') : spaced(plain));
      });
      bodies.streamed.add((await call(PATH, ask({ stream: true }))).body);
      bodies.whole.add((await call(PATH, ask())).body);
    }
    expect([bodies.streamed.size, bodies.whole.size]).toEqual([1, 1]);
    expect([...bodies.streamed][0]?.match(/"input_tokens":\d+/g)).toEqual(['"input_tokens":11', '"input_tokens":11']);
  });

  it('changes nothing where the owner shows cache hits', async () => {
    const { call } = await bridge({ showCacheHits: true });
    const streamed = await call(PATH, ask({ stream: true }));
    expect(streamed.body).toBe(sseOf(messageEvents({ text: 'hi there' })));
    const { usage } = JSON.parse((await call(PATH, ask())).body);
    expect(usage).toMatchObject({ input_tokens: 5, cache_read_input_tokens: 4 });
  });

  it('never changes the input of a tool, whatever its members are called', async () => {
    const { call } = await bridge();
    const input = { cost: 5, usage: { input_tokens: 1 }, cache_read_input_tokens: 3, timings: [1] };
    const calls = [{ id: 'toolu_1', name: 'pay', arguments: JSON.stringify(input) }];
    claude.answer(({ body }, response) => sendMessage(body, response, { calls }));
    const { content } = JSON.parse((await call(PATH, ask())).body);
    expect(content).toEqual([{ type: 'tool_use', id: 'toolu_1', name: 'pay', input }]);
  });

  it('cuts max_tokens to the budget, binds the user to the sandbox, and keeps price and place the host’s', async () => {
    const { call } = await bridge({ budget: { outputTokens: 20 } });
    const own = { speed: 'fast', inference_geo: 'us', betas: ['context-1m-2025-08-07'] };
    const more = { metadata: { user_id: 'u1' }, ...own };
    await call(PATH, ask({ ...more, diagnostics: { previous_message_id: 'msg_00' } }));
    expect(sent()).toEqual({
      ...ask(),
      max_tokens: 20,
      metadata: { user_id: expect.stringMatching(/^[0-9a-f]{64}$/) },
      speed: null,
      inference_geo: null,
      betas: null,
      diagnostics: null,
    });
  });

  it.each([
    [
      'remote_media_refused',
      { messages: [{ role: 'user', content: [{ type: 'image', source: { type: 'url', url: 'http://x' } }] }] },
    ],
    ['file_reference_refused', { container: 'c' }],
    ['provider_tool_refused', { tools: [{ type: 'web_search_20250305', name: 'web_search' }] }],
    ['field_refused', { fallbacks: ['m2'] }],
    ['field_refused', { unheard: 1 }],
  ])('refuses %s as for other upstreams', async (_, more) => {
    const { call } = await bridge();
    expect((await call(PATH, ask(more))).status).toBe(400);
    expect(claude.requests).toEqual([]);
  });

  it('counts tokens at the upstream, which uses none of the budget’s', async () => {
    const fixture = await bridge({ budget: { inputTokens: 10 } });
    claude.answer((_, response) => sendJson(response, 200, { input_tokens: 4711 }));
    const settled = fixture.nextUsage();
    const { max_tokens: _, ...counted } = ask();
    const answer = await fixture.call(`${PATH}/count_tokens`, counted);
    expect(JSON.parse(answer.body)).toEqual({ input_tokens: 4711 });
    expect(claude.requests[0]).toMatchObject({ path: '/v1/messages/count_tokens' });
    expect(sent()).toEqual(counted);
    expect(await settled).toMatchObject({ operation: 'count_tokens', promptTokens: 0 });
    const estimate = await fixture.call(`${PATH}/count_tokens`, { ...counted, model: 'late' });
    expect(JSON.parse(estimate.body)).toEqual({ input_tokens: 2 });
    expect(claude.requests).toHaveLength(1);
  });

  it.each([404, 405, 501])('estimates tokens after %i, since the upstream does not count', async (status) => {
    const fixture = await bridge();
    claude.answer((_, response) => sendJson(response, status, { error: { message: 'no' } }));
    const settled = fixture.nextUsage();
    const { max_tokens: _, ...counted } = ask();
    const answer = await fixture.call(`${PATH}/count_tokens`, counted);
    expect([answer.status, JSON.parse(answer.body)]).toEqual([200, { input_tokens: 2 }]);
    expect(claude.requests).toHaveLength(1);
    expect(await settled).toMatchObject({ outcome: 'upstream-error', promptTokens: 0 });
    claude.answer((_request, response) => sendJson(response, 400, { error: { message: 'no' } }));
    expect((await fixture.call(`${PATH}/count_tokens`, counted)).status).toBe(400);
  });

  it('estimates tokens of a model without a price, which a limit of cost does not admit', async () => {
    const { call } = await bridge({ budget: { costNanoDollars: 1000 } });
    const { max_tokens: _, ...counted } = ask({ model: 'unpriced' });
    const answer = await call(`${PATH}/count_tokens`, counted);
    expect([answer.status, JSON.parse(answer.body)]).toEqual([200, { input_tokens: 2 }]);
    expect((await call(PATH, ask({ model: 'unpriced' }))).status).toBe(403);
    expect(claude.requests).toEqual([]);
  });

  it('a client that leaves in mid-stream ends the upstream’s request, and its text is estimated', async () => {
    const fixture = await bridge();
    claude.answer((_request, response) => {
      startEvents(response);
      response.write(sseOf(messageEvents({ text: 'one' }).slice(0, 4)));
    });
    const arrived = claude.next();
    const settled = fixture.nextUsage();
    const opened = fixture.open(PATH, ask({ stream: true }));
    await opened.until('"one"');
    opened.abort();
    await (await arrived).aborted;
    expect(await settled).toMatchObject({
      outcome: 'cancelled',
      promptTokens: 11,
      completionTokens: 1,
      estimated: true,
    });
  });
});

describe('bridge: errors of an upstream of Anthropic’s API', () => {
  const error = (message: string, type = 'overloaded_error') => ({
    type: 'error',
    error: { type, message },
    request_id: 'req_9',
  });

  it.each([400, 401, 403, 404, 413, 429, 500, 529])(
    'status %i passes with its text, without the host’s key',
    async (status) => {
      const { call } = await bridge();
      claude.answer((_, response) =>
        sendJson(response, status, error(`why ${KEY} sk-ant-ho***789`), { 'request-id': 'req_9' }),
      );
      const answer = await call(PATH, ask());
      expect(answer.status).toBe(status);
      expect(answer.headers['request-id']).toBe('req_9');
      expect(JSON.parse(answer.body)).toEqual(error('why [removed] [removed]'));
    },
  );

  it('429 and 529 lead to another route, of either API', async () => {
    const { call } = await bridge();
    claude.answer((_, response) => sendJson(response, 529, error('busy'), { 'retry-after': '300' }));
    for (const stream of [false, true]) {
      const answer = await call(PATH, ask({ model: 'both', stream }));
      expect([answer.status, answer.body.includes('from ')]).toEqual([200, true]);
    }
    expect(claude.requests).toHaveLength(1);
    expect(local.requests[0]).toMatchObject({ path: '/v1/chat/completions' });
    expect(sent(local)).toMatchObject({ model: 'own', max_tokens: 100 });
    local.answer((_, response) => sendJson(response, 429, {}));
    const paused = await call(PATH, ask({ model: 'm1' }));
    expect([paused.status, errorOf(paused.body)['type']]).toEqual([503, 'api_error']);
  });

  it('an error event ends the stream, without the key, and is no success', async () => {
    const fixture = await bridge();
    claude.answer((_, response) => {
      startEvents(response);
      const begun = sseOf(messageEvents({ text: 'half' }).slice(0, 4));
      response.end(begun + sseOf([error(`boom ${KEY}`) as MessageEvent, { type: 'message_stop' }]));
    });
    const settled = fixture.nextUsage();
    const { body, broken } = await fixture.call(PATH, ask({ stream: true }));
    expect([eventsOf(body).at(-1), broken]).toEqual([error(`boom ${'*'.repeat(KEY.length)}`), false]);
    expect(await settled).toMatchObject({ outcome: 'upstream-error', promptTokens: 11 });
  });

  const events = messageEvents({ text: 'hello' });
  it.each([
    ['breaks off', sseOf(events.slice(0, -1))],
    ['is empty', ''],
    ['is cut within an event', sseOf(events).slice(0, -30)],
    ['has what is no JSON', `${sseOf(events.slice(0, 3))}data: nonsense\n\n`],
    ['has an event beyond the limit', sseOf(messageEvents({ text: 'x'.repeat(3000) }, 3000))],
  ])('a stream that %s ends with an error event and without message_stop', async (_, bytes) => {
    const { call, nextUsage } = await bridge({ limits: { eventBytesMax: 2000 } });
    claude.answer((_request, response) => {
      startEvents(response);
      response.end(bytes);
    });
    const settled = nextUsage();
    const { body } = await call(PATH, ask({ stream: true }));
    expect(body).toMatch(/event: error\ndata: .*"type":"api_error".*\n\n$/);
    expect(body).not.toContain('message_stop');
    expect((await settled).outcome).toBe('upstream-lost');
  });

  it('a stream is complete at message_stop, whatever follows', async () => {
    const fixture = await bridge({ limits: { drainTimeoutMs: 10 } });
    claude.answer((_request, response) => {
      startEvents(response);
      response.write(`${sseOf(messageEvents({ text: 'all' }))}event: late\ndata: {}\n\n`);
    });
    const settled = fixture.nextUsage();
    const { body, broken } = await fixture.call(PATH, ask({ stream: true }));
    expect([eventsOf(body).at(-1), broken]).toEqual([{ type: 'message_stop' }, false]);
    expect(await settled).toMatchObject({ outcome: 'ok', completionTokens: 7 });
  });

  it.each([
    ['no JSON', 'nonsense'],
    ['an error', JSON.stringify(error(`boom ${KEY}`))],
    ['too long', JSON.stringify({ type: 'message', pad: 'x'.repeat(3000) })],
  ])('a plain answer that is %s is 502', async (_, text) => {
    const { call } = await bridge({ limits: { answerBytesMax: 2000 } });
    claude.answer((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(text);
    });
    const answer = await call(PATH, ask());
    expect([answer.status, JSON.parse(answer.body).type]).toEqual([502, 'error']);
    expect(answer.body).not.toContain(KEY);
  });
});

describe('bridge: plans with upstreams of both APIs', () => {
  it.each([
    ['/v1/completions', { prompt: 'hello' }],
    ['/v1/embeddings', { input: 'hello' }],
    ['/api/embed', { input: 'hello' }],
  ])('%s is told what to do where only Anthropic’s API has the model', async (path, body) => {
    const { call } = await bridge();
    const refused = await call(path, { model: 'm1', ...body });
    expect(refused.status).toBe(400);
    expect(refused.body).toContain('only chat');
    if (!path.startsWith('/api')) expect(errorOf(refused.body)['code']).toBe('api_not_spoken');
    // Its first choice is left out, and the other one is asked.
    await call(path, { model: 'both', ...body });
    expect(claude.requests).toEqual([]);
    expect(local.requests.map((one) => JSON.parse(one.body).model)).toEqual(['own']);
  });

  it('a field of chat that Anthropic’s API lacks is refused, unless another route has it', async () => {
    const { call } = await bridge();
    const body = { messages: [{ role: 'user', content: 'hello' }], n: 2 };
    const refused = await call('/v1/chat/completions', { model: 'm1', ...body });
    expect([refused.status, errorOf(refused.body)]).toMatchObject([400, { param: 'n' }]);
    expect((await call('/v1/chat/completions', { model: 'both', ...body })).status).toBe(200);
    expect([claude.requests.length, local.requests.length]).toEqual([0, 1]);
  });

  it('a conversation that another model began loses the thinking that Anthropic did not sign', async () => {
    const { call } = await bridge();
    const thought = (signature: string) => ({ type: 'thinking', thinking: 'hm', signature });
    const text = { type: 'text', text: 'so' };
    const conversation = (content: unknown[]) => [
      { role: 'user', content: 'a' },
      { role: 'assistant', content },
      { role: 'user', content: 'b' },
    ];
    const both = [thought('neurovisor'), thought('EqQB'), text];
    await call(PATH, ask({ messages: conversation(both) }));
    expect(sent().messages).toEqual(conversation([thought('EqQB'), text]));
    await call(PATH, ask({ messages: conversation([thought('neurovisor')]) }));
    expect(sent().messages).toEqual([
      { role: 'user', content: 'a' },
      { role: 'user', content: 'b' },
    ]);
  });

  it('records what either upstream answers, and plays it in its form', async () => {
    const recorder = new Recorder();
    const requests = ['m1', 'own'].flatMap((model) => [false, true].map((stream) => ask({ model, stream })));
    const recording = await bridge({}, { tape: recorder });
    const live = [];
    for (const request of requests) live.push(await recording.call(PATH, request));
    const exchanges = recorder.exchanges();
    expect(exchanges.map(({ answer }) => 'api' in answer && answer.api)).toEqual([
      'anthropic',
      'anthropic',
      false,
      false,
    ]);
    expect(JSON.stringify(exchanges)).not.toMatch(/cache_read_input_tokens\\*":4/);
    const player = new Player({ defaultModel: 'm1', exchanges });
    const playing = await bridgeFixture({ tape: player, upstream: () => Promise.resolve(player.target) });
    world.cleanup.push('player', () => playing.close());
    const content = (body: string) => body.replaceAll(/msg_\w+/g, 'msg');
    for (const [i, request] of requests.entries()) {
      const answer = await playing.call(PATH, request);
      expect(content(answer.body)).toBe(content(live[i]?.body ?? ''));
    }
  });
});

for (const [name, find] of [
  ['Python', pythonAnthropic],
  ['JavaScript', nodeAnthropic],
] as const) {
  requires('generators', find()).describe(`Anthropic’s client for ${name}, at such an upstream`, (client) => {
    const calls = [{ id: 'toolu_1', name: 'weather', arguments: '{"city":"Paris"}' }];
    let forwarder: Forwarder;
    let attempts = 0;
    beforeEach(async () => {
      attempts = 0;
      const fixture = await bridge({ aliases: { 'claude-any': 'm1' } });
      forwarder = await forwardTo(fixture.socketPath);
      world.cleanup.push('forwarder', () => forwarder[Symbol.asyncDispose]());
      claude.answer(({ path, body }, response) => {
        if (path.endsWith('count_tokens')) return sendJson(response, 200, { input_tokens: 3 });
        attempts += 1;
        const { messages } = JSON.parse(body) as { messages: { content: unknown }[] };
        const last = messages.at(-1)?.content;
        if (last === 'weather') return sendMessage(body, response, { text: 'I look', calls });
        if (last === 'think') return sendMessage(body, response, { reasoning: 'hm', text: 'done' });
        if (last === 'always wrong') return sendJson(response, 400, errorBody);
        if (last === 'busy twice' && attempts < 3) {
          return sendJson(response, 529, errorBody, { 'retry-after-ms': '1' });
        }
        if (last === 'breaks') {
          startEvents(response);
          response.end(sseOf(messageEvents({ text: 'half' }).slice(0, 4)));
          return;
        }
        sendMessage(body, response, { text: `${messages.length}` });
      });
    });
    const errorBody = { type: 'error', error: { type: 'invalid_request_error', message: 'no' } };
    const run = (scenario: string) => runScenario(client, forwarder.port, scenario);

    it('gets answers, streams, tools and thinking, and counts', async () => {
      const text = (value: string) => [{ type: 'text', text: value }];
      expect(await run('plain')).toMatchObject({ content: text('1'), input: 11 });
      expect(await run('streamed')).toMatchObject({ content: text('1'), text: '1', input: 11 });
      expect(await run('tools')).toMatchObject([
        { stop_reason: 'tool_use', content: [...text('I look'), { input: { city: 'Paris' } }] },
        { stop_reason: 'end_turn', content: text('3') },
      ]);
      const [thinking] = (await run('thinking')) as { content: { signature?: string }[] }[];
      const signature = thinking?.content[0]?.signature;
      // It came back as it was.
      expect(sent().messages[1].content[0]).toMatchObject({ type: 'thinking', signature });
      expect(await run('rest')).toMatchObject({ counted: 3 });
    });

    it('tries again when the upstream is overloaded, not when it refuses, and sees a stream break', async () => {
      const [tried, refused, broken] = (await run('errors')) as [string, unknown[], unknown[]];
      expect(tried).toBe('1');
      expect(refused).toEqual(['BadRequestError', 400, 'invalid_request_error']);
      expect(broken.at(-1)).toBe('api_error');
    });
  });
}
