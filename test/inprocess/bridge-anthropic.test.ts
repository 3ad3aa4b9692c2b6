/** Anthropic's Messages over real sockets, answered by a scripted upstream of the OpenAI API. */
import type { ServerResponse } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { answerByGates, sendAnswer, sseOf, streamedAnswer, wholeAnswer } from '../support/completions.ts';
import { delta, finish, sendJson, startEvents } from '../support/mock-upstream.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const PATH = '/v1/messages';
const ask = (more: Record<string, unknown> = {}) => ({
  model: 'm1',
  max_tokens: 100,
  messages: [{ role: 'user', content: 'hello' }],
  ...more,
});
const errorOf = (body: string) => (JSON.parse(body) as { error: Record<string, unknown> }).error;
const sent = (i = 0) => JSON.parse(fixture.mock.requests[i]?.body ?? '{}');

interface Event {
  readonly type: string;
  readonly [key: string]: unknown;
}
function eventsOf(text: string): Event[] {
  return text
    .split('\n\n')
    .filter((event) => event !== '')
    .map((event) => {
      const [name, data] = event.split('\n');
      const value = JSON.parse(data?.replace(/^data: /, '') ?? '') as Event;
      expect(name).toBe(`event: ${value.type}`);
      return value;
    });
}

describe('bridge: Messages', () => {
  it.each(['/v1/messages', '/messages', '/v1/v1/messages', '/v1/messages?beta=true'])(
    'serves %s from chat completions',
    async (path) => {
      fixture = await bridgeFixture({ apiKey: 'sk-host' });
      const settled = fixture.nextUsage();
      fixture.mock.answer((_, response) =>
        sendJson(response, 200, wholeAnswer({ text: 'hi there' }), { 'x-request-id': 'r1' }),
      );
      const answer = await fixture.call(path, ask({ system: 'be brief' }), {
        'anthropic-version': '2023-06-01',
        'anthropic-beta': 'x-1',
        'x-api-key': 'guest',
      });
      expect(answer).toMatchObject({ status: 200, broken: false });
      expect(answer.headers).toMatchObject({ 'request-id': 'r1' });
      expect(JSON.parse(answer.body)).toEqual({
        id: expect.stringMatching(/^msg_[0-9a-f]{24}$/),
        type: 'message',
        role: 'assistant',
        model: 'm1',
        content: [{ type: 'text', text: 'hi there' }],
        stop_reason: 'end_turn',
        stop_sequence: null,
        usage: { input_tokens: 11, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 7 },
      });
      expect(fixture.mock.requests[0]).toMatchObject({ path: '/v1/chat/completions' });
      expect(sent()).toEqual({
        model: 'm1',
        messages: [
          { role: 'system', content: 'be brief' },
          { role: 'user', content: 'hello' },
        ],
        max_tokens: 100,
      });
      const headers = JSON.stringify(fixture.mock.requests[0]?.headers);
      expect(headers).toContain('Bearer sk-host');
      expect(headers).not.toMatch(/anthropic|guest/);
      expect(await settled).toMatchObject({ operation: 'chat', promptTokens: 11, outcome: 'ok' });
    },
  );

  it('streams events as they come, with usage, and ends like Anthropic’s', async () => {
    fixture = await bridgeFixture();
    const gates = answerByGates(fixture.mock, streamedAnswer({ text: 'héllo wörld 🙂' }, 4));
    const opened = fixture.open(PATH, ask({ stream: true }));
    expect((await opened.head).headers['content-type']).toMatch(/^text\/event-stream/);
    gates[0]?.resolve();
    await opened.until('message_start');
    gates[1]?.resolve();
    await opened.until('"text":"héll"');
    for (const gate of gates) gate.resolve();
    expect(await opened.ended).toEqual({ broken: false });
    const events = eventsOf(opened.text());
    const texts = events.flatMap((event) => {
      const { text } = (event['delta'] ?? {}) as { text?: string };
      return text === undefined ? [] : [text];
    });
    expect(texts.join('')).toBe('héllo wörld 🙂');
    expect(events.map(({ type }) => type)).toEqual([
      'message_start',
      'content_block_start',
      ...texts.map(() => 'content_block_delta'),
      'content_block_stop',
      'message_delta',
      'message_stop',
    ]);
    expect(events.at(-2)).toMatchObject({
      delta: { stop_reason: 'end_turn', stop_sequence: null },
      usage: { input_tokens: 11, output_tokens: 7, cache_read_input_tokens: 0 },
    });
    expect(sent()).toMatchObject({ stream: true, stream_options: { include_usage: true } });
  });

  it('translates the answer in any form that the upstream chose', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_, response) => sendJson(response, 200, wholeAnswer({ text: 'whole' })));
    const streamed = await fixture.call(PATH, ask({ stream: true }));
    expect(eventsOf(streamed.body).at(-1)).toEqual({ type: 'message_stop' });
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.end(sseOf(streamedAnswer({ text: 'in pieces' })));
    });
    const whole = await fixture.call(PATH, ask());
    expect(JSON.parse(whole.body).content).toEqual([{ type: 'text', text: 'in pieces' }]);
  });

  it('reports cached tokens only if the owner shows them', async () => {
    fixture = await bridgeFixture({ policy: { showCacheHits: true } });
    fixture.mock.answer(({ body }, response) => sendAnswer(body, response, { text: 'x' }));
    const { usage } = JSON.parse((await fixture.call(PATH, ask())).body);
    expect(usage).toMatchObject({ input_tokens: 7, cache_read_input_tokens: 4 });
  });

  it('binds metadata.user_id to the sandbox', async () => {
    fixture = await bridgeFixture();
    await fixture.call(PATH, ask({ metadata: { user_id: 'u1' } }));
    await fixture.call(PATH, ask({ metadata: { user_id: 'u1' } }));
    expect(sent(0).user).toMatch(/^[0-9a-f]{64}$/);
    expect(sent(1).user).toBe(sent(0).user);
    expect(fixture.mock.requests[0]?.body).not.toContain('metadata');
  });

  it('resolves names of Claude models by the policy', async () => {
    fixture = await bridgeFixture({ policy: { defaultModel: 'm2', aliases: { opus: 'm1' } } });
    for (const model of ['claude-sonnet-4-5', 'opus']) await fixture.call(PATH, ask({ model }));
    expect([sent(0).model, sent(1).model]).toEqual(['m2', 'm1']);
    const unknown = await fixture.call(PATH, ask({ model: 'nope' }));
    expect(unknown.status).toBe(404);
    expect(errorOf(unknown.body)).toMatchObject({ type: 'not_found_error' });
  });

  it('counts tokens without the upstream', async () => {
    fixture = await bridgeFixture();
    const count = async (content: unknown) => {
      const body = { model: 'm1', messages: [{ role: 'user', content }] };
      const answer = await fixture.call('/v1/messages/count_tokens', body);
      return [answer.status, JSON.parse(answer.body)];
    };
    expect(await count('hello')).toEqual([200, { input_tokens: 2 }]);
    const source = { type: 'text', media_type: 'text/plain', data: 'x'.repeat(4000) };
    expect(await count([{ type: 'document', source }])).toEqual([200, { input_tokens: 1000 }]);
    expect(fixture.mock.requests).toEqual([]);
  });

  it('lists models in the form of the client', async () => {
    fixture = await bridgeFixture();
    const version = { 'anthropic-version': '2023-06-01' };
    const list = JSON.parse((await fixture.call('/v1/models', undefined, version)).body);
    expect(list).toMatchObject({ has_more: false, first_id: 'm1', last_id: 'm2' });
    expect(list.data[0]).toEqual({
      type: 'model',
      id: 'm1',
      display_name: 'm1',
      created_at: '1970-01-01T00:00:00.000Z',
    });
    const one = await fixture.call('/v1/models/m2', undefined, version);
    expect(JSON.parse(one.body)).toMatchObject({ type: 'model', id: 'm2' });
    expect(JSON.parse((await fixture.call('/v1/models')).body)).toHaveProperty('object', 'list');
  });

  it('checks a body in a thread as it does on the event loop', async () => {
    fixture = await bridgeFixture();
    const content = 'ä'.repeat(300_000);
    const answer = await fixture.call(PATH, ask({ messages: [{ role: 'user', content }] }));
    expect(answer.status).toBe(200);
    expect(sent().messages[0].content).toBe(content);
    await expect.poll(() => fixture.port.stats().bodyBytes).toBe(0);
  });
});

describe('bridge: errors of Messages', () => {
  it.each([
    [400, 'invalid_request_error', ask({ max_tokens: undefined })],
    [400, 'invalid_request_error', ask({ enable_search: true })],
    [404, 'not_found_error', ask({ model: 'nope' })],
  ])('%i is a %s', async (status, type, body) => {
    fixture = await bridgeFixture();
    const answer = await fixture.call(PATH, body);
    expect([answer.status, JSON.parse(answer.body)]).toEqual([
      status,
      { type: 'error', error: { type, message: expect.any(String) } },
    ]);
    expect(fixture.mock.requests).toEqual([]);
  });

  it.each([
    [400, 400, 'invalid_request_error'],
    [401, 401, 'authentication_error'],
    [403, 403, 'permission_error'],
    [404, 404, 'not_found_error'],
    [413, 413, 'request_too_large'],
    [429, 429, 'rate_limit_error'],
    [500, 500, 'api_error'],
    [503, 529, 'overloaded_error'],
    [504, 504, 'timeout_error'],
  ])('status %i of the upstream becomes %i %s, with its text', async (theirs, ours, type) => {
    fixture = await bridgeFixture({ apiKey: 'sk-host-secret' });
    const error = { message: 'why sk-host-secret' };
    fixture.mock.answer((_, response) =>
      sendJson(response, theirs, { error }, { 'retry-after': '7', 'x-request-id': 'r9' }),
    );
    for (const stream of [false, true]) {
      const answer = await fixture.call(PATH, ask({ stream }));
      expect(answer.status).toBe(ours);
      expect(answer.headers).toMatchObject({ 'retry-after': '7', 'request-id': 'r9' });
      expect(errorOf(answer.body)).toEqual({ type, message: 'why [removed]' });
    }
  });

  it('an error within an answer never has the host’s key, for guest and log, even if it is cut', async () => {
    const logged: string[] = [];
    const note = (...all: unknown[]): unknown => logged.push(JSON.stringify(all));
    const log = { error: note, warn: note, info: note, debug: note };
    fixture = await bridgeFixture({ apiKey: 'sk-host-secret-0123', log });
    // 4 of the characters that pass belong to the key.
    const message = `${'x'.repeat(996)}sk-host-secret-0123`;
    fixture.mock.answer(({ body }, response) => {
      const error = { error: { message } };
      if (!body.includes('"stream":true')) return sendJson(response, 200, error);
      startEvents(response);
      response.end(sseOf([JSON.stringify(error)]));
    });
    const answers = [await fixture.call(PATH, ask()), await fixture.call(PATH, ask({ stream: true }))];
    for (const { body } of answers) expect(body).toMatch(/xxxx\*{4}/);
    expect(logged.join()).toContain('xxxx');
    expect([...answers.map(({ body }) => body), ...logged].join()).not.toContain('sk-h');
  });

  it('an unknown path and a wrong method are errors in Anthropic’s form', async () => {
    fixture = await bridgeFixture();
    const batches = await fixture.call('/v1/messages/batches', ask());
    expect([batches.status, errorOf(batches.body)['type']]).toEqual([404, 'not_found_error']);
    const get = await fixture.call(PATH);
    expect([get.status, errorOf(get.body)['type']]).toEqual([405, 'invalid_request_error']);
    const files = await fixture.call('/v1/files', {}, { 'anthropic-version': '2023-06-01' });
    expect([files.status, JSON.parse(files.body).type]).toEqual([404, 'error']);
  });

  it('a missing upstream is 503 with Retry-After', async () => {
    const target = { name: 'Ollama', baseUrl: 'http://127.0.0.1:1' };
    fixture = await bridgeFixture({ upstream: () => Promise.resolve(target) });
    const answer = await fixture.call(PATH, ask());
    expect([answer.status, errorOf(answer.body)['type']]).toEqual([503, 'api_error']);
    expect(answer.headers).toMatchObject({ 'retry-after': '2', 'x-should-retry': 'true' });
  });

  it('a silent upstream gets the client pings, and its end is an error event', async () => {
    const limits = { keepAliveIntervalMs: 20 };
    fixture = await bridgeFixture({ policy: { limits } });
    // The client would repeat a request without an answer.
    fixture.mock.answer((_, response) => startEvents(response));
    const opened = fixture.open(PATH, ask({ stream: true }));
    await opened.until('event: ping\ndata: {"type": "ping"}\n\n');
    fixture.mock.kill();
    expect(await opened.ended).toEqual({ broken: false });
    expect(eventsOf(opened.text()).at(-1)).toMatchObject({ type: 'error' });
  });

  const cuts: [string, string][] = [
    ['in the middle of a text', delta('hel')],
    ['before anything', ''],
    ['in the middle of an event', `${delta('hel')}data: {"choi`],
    ['after [DONE] without a finish reason', `${delta('hel')}data: [DONE]\n\n`],
    ['with an error', `${delta('hel')}data: {"error":{"message":"boom"}}\n\n`],
    ['with what is no JSON', `${delta('hel')}data: nonsense\n\n`],
    ['with an aborted finish', finish.replace('stop', 'abort')],
  ];
  it.each(cuts)('a stream that ends %s ends with an error event', async (_, bytes) => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.end(bytes);
    });
    const settled = fixture.nextUsage();
    const streamed = await fixture.call(PATH, ask({ stream: true }));
    const events = eventsOf(streamed.body);
    expect(events.at(-1)).toMatchObject({ type: 'error', error: { type: 'api_error' } });
    expect(events.filter(({ type }) => /^message_(delta|stop)$/.test(type))).toEqual([]);
    expect((await settled).outcome).toMatch(/^upstream-/);
    // Without a stream there is a status to report it.
    const whole = await fixture.call(PATH, ask());
    expect([whole.status, JSON.parse(whole.body).type]).toEqual([502, 'error']);
  });

  const lateEnds: [string, (response: ServerResponse) => void][] = [
    ['breaks off', (response) => response.socket?.resetAndDestroy()],
    ['stays open', () => undefined],
    ['sends more', (response) => response.write(sseOf(['nonsense']))],
  ];
  it.each(lateEnds)('an answer is complete at [DONE], even if the upstream then %s', async (_, end) => {
    fixture = await bridgeFixture({ policy: { limits: { drainTimeoutMs: 10 } } });
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.write(sseOf(streamedAnswer({ text: 'all' })), () => end(response));
    });
    for (const stream of [true, false]) {
      const settled = fixture.nextUsage();
      const arrived = fixture.mock.next();
      const answer = await fixture.call(PATH, ask({ stream }));
      expect(answer).toMatchObject({ status: 200, broken: false });
      if (stream) expect(eventsOf(answer.body).at(-1)).toEqual({ type: 'message_stop' });
      else expect(JSON.parse(answer.body).content).toEqual([{ type: 'text', text: 'all' }]);
      expect(await settled).toMatchObject({ outcome: 'ok', promptTokens: 11 });
      await (await arrived).aborted;
    }
  });

  it('an upstream that ends its stream after [DONE] keeps its connection', async () => {
    fixture = await bridgeFixture({ policy: { limits: { drainTimeoutMs: 60_000 } } });
    const ports: unknown[] = [];
    for (const _ of [1, 2]) {
      const hasAll = Promise.withResolvers<void>();
      fixture.mock.answer(async (_request, response) => {
        ports.push(response.socket?.remotePort);
        startEvents(response);
        response.write(sseOf(streamedAnswer({ text: 'all' })));
        await hasAll.promise;
        response.end();
      });
      const settled = fixture.nextUsage();
      const answer = await fixture.call(PATH, ask({ stream: true }));
      expect(eventsOf(answer.body).at(-1)).toEqual({ type: 'message_stop' });
      hasAll.resolve();
      await settled;
    }
    expect(ports[1]).toBe(ports[0]);
  });

  it('a client that disconnects in mid-stream ends the upstream’s request', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.write(delta('one'));
    });
    const arrived = fixture.mock.next();
    const settled = fixture.nextUsage();
    const opened = fixture.open(PATH, ask({ stream: true }));
    await opened.until('one');
    opened.abort();
    await (await arrived).aborted;
    expect(await settled).toMatchObject({ outcome: 'cancelled', completionTokens: 1 });
  });

  it('an event or answer beyond the limits is an error', async () => {
    const limits = { eventBytesMax: 1000, answerBytesMax: 1000 };
    fixture = await bridgeFixture({ policy: { limits } });
    const text = 'x'.repeat(2000);
    fixture.mock.answer(({ body }, response) => {
      if (!body.includes('"stream":true')) return sendJson(response, 200, wholeAnswer({ text }));
      startEvents(response);
      response.end(sseOf(streamedAnswer({ text }, 2000)));
    });
    const streamed = await fixture.call(PATH, ask({ stream: true }));
    expect(eventsOf(streamed.body).at(-1)).toMatchObject({ type: 'error' });
    expect((await fixture.call(PATH, ask())).status).toBe(502);
  });

  it('a plain answer has its limit even if the upstream streams it', async () => {
    fixture = await bridgeFixture({ policy: { limits: { answerBytesMax: 1000 } } });
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.end(sseOf(streamedAnswer({ text: 'x'.repeat(200) }, 1)));
    });
    expect((await fixture.call(PATH, ask())).status).toBe(502);
    const streamed = await fixture.call(PATH, ask({ stream: true }));
    expect(eventsOf(streamed.body).at(-1)).toEqual({ type: 'message_stop' });
  });
});
