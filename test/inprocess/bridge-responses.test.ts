/** OpenAI's Responses over real sockets, answered by a scripted upstream that speaks chat completions. */
import type { ServerResponse } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture, call } from '../support/bridge-fixture.ts';
import { answerByGates, sendAnswer, sseOf, streamedAnswer, wholeAnswer } from '../support/completions.ts';
import { responsesEvents } from '../support/conversations.ts';
import { delta, finish, sendJson, startEvents } from '../support/mock-upstream.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const PATH = '/v1/responses';
const ask = (more: Record<string, unknown> = {}) => ({ model: 'm1', input: 'hello', ...more });
const errorOf = (body: string) => (JSON.parse(body) as { error: Record<string, unknown> }).error;
const sent = (i = 0) => JSON.parse(fixture.mock.requests[i]?.body ?? '{}');
const says = (text: string) => fixture.mock.answer(({ body }, response) => sendAnswer(body, response, { text }));
const create = async (more: Record<string, unknown> = {}) => {
  const answer = await fixture.call(PATH, ask(more));
  expect(answer.status, answer.body).toBe(200);
  return JSON.parse(answer.body);
};
const remove = async (path: string): Promise<[number, unknown]> => {
  const text = await fixture.raw(`DELETE ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`);
  const [head = '', body = ''] = text.split('\r\n\r\n');
  return [Number(head.slice(9, 12)), JSON.parse(body)];
};

describe('bridge: Responses', () => {
  it.each(['/v1/responses', '/responses', '/v1/responses/'])('serves %s from chat completions', async (path) => {
    fixture = await bridgeFixture({ apiKey: 'sk-host' });
    const settled = fixture.nextUsage();
    fixture.mock.answer((_, response) =>
      sendJson(response, 200, wholeAnswer({ text: 'hi there' }), { 'x-request-id': 'r1' }),
    );
    const answer = await fixture.call(path, ask({ instructions: 'be brief' }), { authorization: 'Bearer guest' });
    expect(answer).toMatchObject({ status: 200, broken: false });
    expect(answer.headers).toMatchObject({ 'x-request-id': 'r1' });
    const response = JSON.parse(answer.body);
    expect(response).toMatchObject({
      id: expect.stringMatching(/^resp_[0-9a-f]{24}$/),
      object: 'response',
      status: 'completed',
      model: 'm1',
      error: null,
      incomplete_details: null,
      instructions: 'be brief',
      store: true,
      output: [
        {
          type: 'message',
          status: 'completed',
          role: 'assistant',
          content: [{ type: 'output_text', text: 'hi there', annotations: [] }],
        },
      ],
      usage: {
        input_tokens: 11,
        input_tokens_details: { cached_tokens: 0 },
        output_tokens: 7,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: 18,
      },
    });
    expect(Math.abs(response.created_at - Date.now() / 1000)).toBeLessThan(600);
    expect(fixture.mock.requests[0]).toMatchObject({ path: '/v1/chat/completions' });
    expect(sent()).toEqual({
      model: 'm1',
      messages: [
        { role: 'system', content: 'be brief' },
        { role: 'user', content: 'hello' },
      ],
    });
    const headers = JSON.stringify(fixture.mock.requests[0]?.headers);
    expect(headers).toContain('Bearer sk-host');
    expect(headers).not.toContain('guest');
    expect(await settled).toMatchObject({ operation: 'responses', promptTokens: 11, outcome: 'ok' });
  });

  it('streams events as they come, numbered, and ends with the whole response', async () => {
    fixture = await bridgeFixture();
    const gates = answerByGates(fixture.mock, streamedAnswer({ text: 'héllo wörld 🙂' }, 4));
    const opened = fixture.open(PATH, ask({ stream: true }));
    expect((await opened.head).headers['content-type']).toMatch(/^text\/event-stream/);
    gates[0]?.resolve();
    await opened.until('response.in_progress');
    gates[1]?.resolve();
    await opened.until('"delta":"héll"');
    for (const gate of gates) gate.resolve();
    expect(await opened.ended).toEqual({ broken: false });
    const events = responsesEvents(opened.text());
    const deltas = events.filter(({ type }) => type === 'response.output_text.delta');
    expect(deltas.map((event) => event['delta']).join('')).toBe('héllo wörld 🙂');
    expect(events.map(({ type }) => type)).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      ...deltas.map(({ type }) => type),
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ]);
    expect(events.at(-1)?.['response']).toMatchObject({
      status: 'completed',
      output: [{ content: [{ text: 'héllo wörld 🙂' }] }],
      usage: { input_tokens: 11, output_tokens: 7, input_tokens_details: { cached_tokens: 0 } },
    });
    expect(sent()).toMatchObject({ stream: true, stream_options: { include_usage: true } });
  });

  it('translates the answer in any form that the upstream chose', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_, response) => sendJson(response, 200, wholeAnswer({ text: 'whole' })));
    const streamed = await fixture.call(PATH, ask({ stream: true }));
    expect(responsesEvents(streamed.body).at(-1)).toMatchObject({ type: 'response.completed' });
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.end(sseOf(streamedAnswer({ text: 'in pieces' })));
    });
    expect((await create()).output[0].content[0].text).toBe('in pieces');
  });

  it('reports cached tokens only if the owner shows them, and reasoning tokens always', async () => {
    fixture = await bridgeFixture({ policy: { showCacheHits: true } });
    const usage = {
      prompt_tokens: 9,
      completion_tokens: 5,
      prompt_tokens_details: { cached_tokens: 4 },
      completion_tokens_details: { reasoning_tokens: 3 },
    };
    fixture.mock.answer(({ body }, response) => sendAnswer(body, response, { text: 'x', usage }));
    expect((await create()).usage).toMatchObject({
      input_tokens_details: { cached_tokens: 4 },
      output_tokens_details: { reasoning_tokens: 3 },
    });
  });

  it('binds the user label to the sandbox, and resolves models by the policy', async () => {
    fixture = await bridgeFixture({ policy: { defaultModel: 'm2' } });
    const more = { safety_identifier: 'u1', prompt_cache_key: 'k', model: 'gpt-5.1' };
    await create(more);
    expect(sent()).toMatchObject({ user: expect.stringMatching(/^[0-9a-f]{64}$/), model: 'm2' });
    expect(fixture.mock.requests[0]?.body).not.toMatch(/prompt_cache_key|safety/);
    expect((await fixture.call(PATH, ask({ model: 'nope' }))).status).toBe(404);
  });

  it('counts tokens without the upstream', async () => {
    fixture = await bridgeFixture();
    const input = 'x'.repeat(4000);
    const answer = await fixture.call('/v1/responses/input_tokens', { model: 'm1', input });
    expect(JSON.parse(answer.body)).toEqual({ object: 'response.input_tokens', input_tokens: 1000 });
    expect(fixture.mock.requests).toEqual([]);
  });

  it('refuses a WebSocket at once, so that Codex uses HTTP', async () => {
    fixture = await bridgeFixture();
    const answer = await fixture.call(PATH, undefined, {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
    });
    expect(answer.status).toBe(426);
    expect(errorOf(answer.body)).toMatchObject({ code: 'upgrade_refused' });
  });
});

describe('bridge: stored Responses', () => {
  it('continues an answer by its id, with its reasoning and calls', async () => {
    fixture = await bridgeFixture();
    const scripted = { reasoning: 'hm', text: 'I look', calls: [{ id: 'c1', name: 'f', arguments: '{"a":1}' }] };
    fixture.mock.answer(({ body }, response) => sendAnswer(body, response, scripted));
    const tools = [{ type: 'function', name: 'f', parameters: { type: 'object' } }];
    const first = await create({ tools, instructions: 'not carried over' });
    says('done');
    const output = { type: 'function_call_output', call_id: 'c1', output: 'sunny' };
    const second = await create({ previous_response_id: first.id, input: [output], stream: false });
    expect(second.previous_response_id).toBe(first.id);
    expect(sent(1).messages).toEqual([
      { role: 'user', content: 'hello' },
      {
        role: 'assistant',
        content: 'I look',
        reasoning_content: 'hm',
        reasoning: 'hm',
        tool_calls: [{ id: 'c1', type: 'function', function: { name: 'f', arguments: '{"a":1}' } }],
      },
      { role: 'tool', tool_call_id: 'c1', content: 'sunny' },
    ]);
    await create({ previous_response_id: second.id, input: 'and?' });
    expect(sent(2).messages.slice(3)).toEqual([
      { role: 'assistant', content: 'done' },
      { role: 'user', content: 'and?' },
    ]);
  });

  it('is stored before a client can read the end of its stream', async () => {
    fixture = await bridgeFixture({ policy: { limits: { drainTimeoutMs: 60_000 } } });
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.write(sseOf(streamedAnswer({ text: 'all' })));
    });
    const opened = fixture.open(PATH, ask({ stream: true }));
    await opened.until('response.completed');
    const [, id] = /"id":"(resp_[0-9a-f]+)"/.exec(opened.text()) ?? [];
    expect((await fixture.call(`${PATH}/${id}`)).status).toBe(200);
    opened.abort();
  });

  it('can be read, listed and deleted', async () => {
    fixture = await bridgeFixture();
    const response = await create({
      input: [
        { role: 'user', content: 'one' },
        { role: 'user', content: 'two' },
      ],
    });
    const read = await fixture.call(`${PATH}/${response.id}`);
    expect(JSON.parse(read.body)).toEqual(response);
    const list = async (query: string) => {
      const answer = await fixture.call(`${PATH}/${response.id}/input_items${query}`);
      return JSON.parse(answer.body);
    };
    const all = await list('?order=asc');
    expect(all).toMatchObject({ object: 'list', has_more: false, first_id: all.data[0].id });
    expect(all.data).toMatchObject([
      { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'one' }] },
      { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'two' }] },
    ]);
    const newest = await list('?limit=1');
    expect(newest).toMatchObject({ data: [all.data[1]], has_more: true });
    expect((await list(`?limit=1&after=${newest.last_id}`)).data).toEqual([all.data[0]]);
    expect(await list('?limit=0')).toMatchObject({ error: { param: 'limit' } });
    expect(await remove(`${PATH}/${response.id}`)).toEqual([
      200,
      { id: response.id, object: 'response', deleted: true },
    ]);
    expect((await remove(`${PATH}/${response.id}`))[0]).toBe(404);
    expect((await fixture.call(`${PATH}/${response.id}`)).status).toBe(404);
  });

  it('accepts items by reference', async () => {
    fixture = await bridgeFixture();
    const { output } = await create();
    const input = [
      { role: 'user', content: 'hello' },
      { type: 'item_reference', id: output[0].id },
      { role: 'user', content: 'more' },
    ];
    await create({ input });
    expect(sent(1).messages[1]).toEqual({ role: 'assistant', content: 'hello' });
    const unknown = await fixture.call(PATH, ask({ input: [{ id: 'msg_nope' }] }));
    expect([unknown.status, errorOf(unknown.body)]).toEqual([
      404,
      expect.objectContaining({ code: 'item_not_found', param: 'input' }),
    ]);
  });

  it('is not stored with "store": false, nor known to another sandbox', async () => {
    fixture = await bridgeFixture();
    const away = await create({ store: false });
    expect(away.store).toBe(false);
    const kept = await create();
    const socketPath = `${fixture.dir}/other_1025`;
    await fixture.bridge.attach({ sandboxId: 'sandbox-b', socketPath });
    for (const [path, id] of [
      [fixture.socketPath, away.id],
      [socketPath, kept.id],
    ]) {
      const answer = await call(path, PATH, ask({ previous_response_id: id }));
      expect([answer.status, errorOf(answer.body)]).toEqual([
        400,
        {
          message: expect.stringContaining(`Previous response with id '${id}' not found`),
          type: 'invalid_request_error',
          param: 'previous_response_id',
          code: 'previous_response_not_found',
        },
      ]);
      expect((await call(path, `${PATH}/${id}`)).status).toBe(404);
    }
    expect(fixture.mock.requests).toHaveLength(2);
  });

  it('checks a long conversation in a thread, though the request is short', async () => {
    fixture = await bridgeFixture();
    const input = 'ä'.repeat(300_000);
    const first = await create({ input });
    await create({ previous_response_id: first.id, input: 'and?' });
    expect(sent(1).messages[0].content).toBe(input);
    await expect.poll(() => fixture.port.stats().bodyBytes).toBe(0);
  });
});

describe('bridge: errors of Responses', () => {
  it.each([
    ['field_refused', { background: true }],
    ['file_reference_refused', { conversation: 'conv_1' }],
    ['file_reference_refused', { prompt: { id: 'p' } }],
    ['provider_tool_refused', { tools: [{ type: 'web_search', external_web_access: false }] }],
    ['field_refused', { enable_search: true }],
    ['invalid_value', { input: [] }],
  ])('%s: %j', async (code, more) => {
    fixture = await bridgeFixture();
    const answer = await fixture.call(PATH, ask(more));
    expect([answer.status, errorOf(answer.body)]).toEqual([
      400,
      expect.objectContaining({ code, type: 'invalid_request_error' }),
    ]);
    expect(fixture.mock.requests).toEqual([]);
  });

  it.each([
    ['PUT', '/v1/responses', 405],
    ['POST', '/v1/responses/resp_1', 405],
    ['POST', '/v1/responses/resp_1/cancel', 404],
    ['POST', '/v1/responses/compact', 404],
    ['GET', '/v1/responses/../models', 404],
  ])('%s %s: %i', async (method, path, status) => {
    fixture = await bridgeFixture();
    const head = `${method} ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`;
    expect(await fixture.raw(head)).toContain(`HTTP/1.1 ${status}`);
  });

  it('an error of the upstream keeps its status and id, without the key', async () => {
    fixture = await bridgeFixture({ apiKey: 'sk-host-secret-key' });
    fixture.mock.answer((_, response) =>
      sendJson(
        response,
        429,
        { error: { message: 'slow down, sk-host-secret-key' } },
        { 'x-request-id': 'r9', 'retry-after': '3' },
      ),
    );
    const answer = await fixture.call(PATH, ask());
    expect(answer.status).toBe(429);
    expect(answer.headers).toMatchObject({ 'x-request-id': 'r9', 'retry-after': '3' });
    expect(errorOf(answer.body)).toMatchObject({ message: 'slow down, [removed]' });
  });

  const ways: [string, (response: ServerResponse) => void][] = [
    ['breaks off', (response) => response.socket?.destroy()],
    ['ends without a finish reason', (response) => response.end()],
    ['reports an error', (response) => response.end(sseOf(['{"error":{"message":"sk-host-key"}}']))],
    ['sends no JSON', (response) => response.end(sseOf(['nonsense']))],
  ];
  it.each(ways)('a stream that %s fails, and is not stored', async (_, end) => {
    fixture = await bridgeFixture({ apiKey: 'sk-host-key' });
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.write(delta('half'), () => end(response));
    });
    const answer = await fixture.call(PATH, ask({ stream: true }));
    const events = responsesEvents(answer.body);
    const [error, failed] = events.slice(-2);
    expect(error).toMatchObject({ type: 'error', error: { type: 'server_error' } });
    expect(failed).toMatchObject({
      type: 'response.failed',
      response: { status: 'failed', error: { code: 'server_error' } },
    });
    expect(answer.body).not.toMatch(/response\.completed|sk-host-key/);
    const { id } = (failed?.['response'] ?? {}) as { id?: string };
    expect((await fixture.call(`${PATH}/${id}`)).status).toBe(404);
    expect((await fixture.call(PATH, ask())).status).toBe(502);
  });

  it('an answer that was cut off is incomplete, and can be continued', async () => {
    fixture = await bridgeFixture();
    const calls = [{ id: 'c1', name: 'f', arguments: '{"a":' }];
    const scripted = { text: 'I', calls, finish: 'length' };
    fixture.mock.answer(({ body }, response) => sendAnswer(body, response, scripted));
    const answer = await fixture.call(PATH, ask({ stream: true }));
    const last = responsesEvents(answer.body).at(-1);
    expect(last).toMatchObject({
      type: 'response.incomplete',
      response: {
        status: 'incomplete',
        incomplete_details: { reason: 'max_output_tokens' },
        output: [{ type: 'message' }, { type: 'function_call', status: 'incomplete' }],
      },
    });
    says('ok');
    const { id } = (last?.['response'] ?? {}) as { id?: string };
    await create({ previous_response_id: id });
    expect(sent(1).messages[1]).toEqual({ role: 'assistant', content: 'I' });
  });

  it('keeps a silent stream alive, and reports an error before the first event', async () => {
    fixture = await bridgeFixture({ policy: { limits: { keepAliveIntervalMs: 5 } } });
    const gate = Promise.withResolvers<void>();
    fixture.mock.answer(async (_, response) => {
      await gate.promise;
      sendJson(response, 500, { error: { message: 'no memory' } });
    });
    const opened = fixture.open(PATH, ask({ stream: true }));
    await opened.until(': keep-alive\n\n: keep-alive\n\n');
    gate.resolve();
    await opened.ended;
    const text = opened.text().replaceAll(': keep-alive\n\n', '');
    expect(responsesEvents(text)).toMatchObject([
      { type: 'error', message: 'no memory' },
      { type: 'response.failed', response: { error: { message: 'no memory' } } },
    ]);
  });

  it.each([
    ['the client leaves', (_: BridgeFixture, abort: () => void) => abort()],
    ['the port is closed', (f: BridgeFixture) => void f.port.close()],
  ])('%s in mid-stream: the upstream’s request ends, and nothing is stored', async (_, leave) => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.write(delta('one'));
    });
    const arrived = fixture.mock.next();
    const settled = fixture.nextUsage();
    const opened = fixture.open(PATH, ask({ stream: true }));
    await opened.until('"delta":"one"');
    leave(fixture, opened.abort);
    await (await arrived).aborted;
    expect(await settled).toMatchObject({ outcome: 'cancelled', completionTokens: 1 });
    await opened.ended;
    expect(opened.text()).not.toContain('response.completed');
  });

  it('a plain answer or an event beyond the limits is an error', async () => {
    const limits = { eventBytesMax: 1000, answerBytesMax: 1000 };
    fixture = await bridgeFixture({ policy: { limits } });
    const text = 'x'.repeat(2000);
    fixture.mock.answer(({ body }, response) => {
      if (!body.includes('"stream":true')) return sendJson(response, 200, wholeAnswer({ text }));
      startEvents(response);
      response.end(sseOf(streamedAnswer({ text }, 2000)) + finish);
    });
    const streamed = await fixture.call(PATH, ask({ stream: true }));
    expect(responsesEvents(streamed.body).at(-1)).toMatchObject({ type: 'response.failed' });
    expect((await fixture.call(PATH, ask())).status).toBe(502);
  });
});
