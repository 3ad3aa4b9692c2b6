/** Programs of other APIs at a model server that speaks Anthropic's Messages, over real sockets. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { messageEvents, sendMessage, sseOf } from '../support/messages.ts';
import { type MockUpstream, sendJson, startEvents } from '../support/mock-upstream.ts';
import { CLAUDE_KEY as KEY, sentTo, type TwoApis, twoApis } from '../support/two-apis.ts';

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

describe('bridge: other APIs at an upstream of Anthropic’s API', () => {
  const PNG = 'iVBORw0KGgo=';
  const weather = { type: 'object', properties: { city: { type: 'string' } } };
  const calls = [
    { id: 'toolu_1', name: 'weather', arguments: '{"city":"Paris"}' },
    { id: 'toolu_2', name: 'now', arguments: '{}' },
  ];
  const chat = (more: object = {}) => ({
    model: 'm1',
    messages: [
      { role: 'system', content: 'be brief' },
      { role: 'user', content: 'hello' },
    ],
    ...more,
  });
  const chunksOf = (text: string) =>
    text
      .split('\n\n')
      .filter((event) => event !== '' && event !== 'data: [DONE]')
      .map((event) => JSON.parse(event.slice(6)));

  it('chat: a whole conversation with tools, results and an image', async () => {
    const fixture = await bridge();
    claude.answer(({ body }, response) => sendMessage(body, response, { reasoning: 'hm', text: 'I look', calls }));
    const settled = fixture.nextUsage();
    const answer = await fixture.call(
      '/v1/chat/completions',
      chat({
        messages: [
          { role: 'developer', content: 'be brief' },
          {
            role: 'user',
            content: [
              { type: 'text', text: 'what is this?' },
              { type: 'image_url', image_url: { url: `data:image/png;base64,${PNG}` } },
            ],
          },
          {
            role: 'assistant',
            content: null,
            tool_calls: [{ id: 'a.1:0', type: 'function', function: { name: 'now', arguments: '' } }],
          },
          { role: 'tool', tool_call_id: 'a.1:0', content: 'noon' },
          { role: 'system', content: 'hurry' },
        ],
        tools: [{ type: 'function', function: { name: 'weather', parameters: weather } }],
        tool_choice: 'required',
        parallel_tool_calls: false,
        stop: 'END',
        temperature: 1.5,
        max_completion_tokens: 50,
        user: 'u1',
        response_format: { type: 'json_schema', json_schema: { name: 'x', schema: weather } },
      }),
      { 'x-api-key': 'guest-key' },
    );
    const id = expect.stringMatching(/^call_[0-9a-f]{24}$/);
    expect(claude.requests[0]).toMatchObject({
      path: '/v1/messages',
      headers: { 'x-api-key': KEY, 'anthropic-version': '2023-06-01' },
    });
    expect(sent()).toEqual({
      model: 'm1',
      max_tokens: 50,
      system: 'be brief',
      messages: [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'what is this?' },
            { type: 'image', source: { type: 'base64', media_type: 'image/png', data: PNG } },
          ],
        },
        { role: 'assistant', content: [{ type: 'tool_use', id, name: 'now', input: {} }] },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: id, content: [{ type: 'text', text: 'noon' }] },
            { type: 'text', text: '<system>\nhurry\n</system>' },
          ],
        },
      ],
      tools: [{ name: 'weather', input_schema: weather }],
      tool_choice: { type: 'any', disable_parallel_tool_use: true },
      stop_sequences: ['END'],
      output_config: { format: { type: 'json_schema', schema: weather } },
      metadata: { user_id: expect.stringMatching(/^[0-9a-f]{64}$/) },
    });
    const { content } = sent().messages[1];
    expect(sent().messages[2].content[0].tool_use_id).toBe(content[0].id);
    expect(answer.headers).toMatchObject({ 'x-request-id': 'req_1' });
    expect(JSON.parse(answer.body)).toEqual({
      id: expect.stringMatching(/^chatcmpl-[0-9a-f]{24}$/),
      object: 'chat.completion',
      created: expect.any(Number),
      model: 'm1',
      choices: [
        {
          index: 0,
          message: {
            role: 'assistant',
            content: 'I look',
            refusal: null,
            reasoning_content: 'hm',
            tool_calls: calls.map(({ id: own, name, arguments: json }) => ({
              id: own,
              type: 'function',
              function: { name, arguments: json },
            })),
          },
          logprobs: null,
          finish_reason: 'tool_calls',
        },
      ],
      usage: { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18, prompt_tokens_details: { cached_tokens: 0 } },
    });
    expect(await settled).toMatchObject({ promptTokens: 11, completionTokens: 7, outcome: 'ok' });
  });

  it.each([undefined, { include_usage: true }])('chat: a stream with the options %j', async (options) => {
    const fixture = await bridge({ budget: { outputTokens: 30 } });
    claude.answer(({ body }, response) => sendMessage(body, response, { text: 'héllo wörld', calls }));
    const settled = fixture.nextUsage();
    const more = options === undefined ? {} : { stream_options: options };
    const { body } = await fixture.call('/v1/chat/completions', chat({ stream: true, ...more }));
    // The request has no limit, but the budget has one.
    expect(sent()).toMatchObject({ max_tokens: 30, stream: true });
    expect(body).toMatch(/\n\ndata: \[DONE\]\n\n$/);
    const chunks = chunksOf(body);
    const deltas = chunks.flatMap(({ choices }) => choices.map((one: { delta: unknown }) => one.delta));
    expect(deltas[0]).toEqual({ role: 'assistant', content: '' });
    expect(deltas.map(({ content = '' }) => content).join('')).toBe('héllo wörld');
    const parts = deltas.flatMap(({ tool_calls: all = [] }) => all);
    for (const [index, call] of calls.entries()) {
      const own = parts.filter((one) => one.index === index);
      expect(own[0]).toMatchObject({ id: call.id, function: { name: call.name } });
      expect(own.map((one) => one.function.arguments).join('')).toBe(call.arguments);
    }
    const usage = { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 };
    if (options === undefined) expect(chunks.at(-1).choices[0].finish_reason).toBe('tool_calls');
    else expect(chunks.at(-1)).toMatchObject({ choices: [], usage });
    expect(chunks.some((one) => 'usage' in one)).toBe(options !== undefined);
    expect(await settled).toMatchObject({ promptTokens: 11, completionTokens: 7, outcome: 'ok' });
  });

  it('Responses and Ollama: plain and streamed', async () => {
    const { call } = await bridge();
    const input = { model: 'm1', input: 'hello', instructions: 'be brief' };
    const response = JSON.parse((await call('/v1/responses', input)).body);
    expect(response).toMatchObject({
      status: 'completed',
      output: [{ type: 'message', content: [{ type: 'output_text', text: 'hi there' }] }],
      usage: { input_tokens: 11, output_tokens: 7 },
    });
    expect(sent()).toMatchObject({ system: 'be brief', max_tokens: 8192 });
    const streamed = await call('/v1/responses', { ...input, stream: true });
    expect(streamed.body).toMatch(/event: response\.completed\ndata: .*hi there/);
    const next = { ...input, previous_response_id: response.id, input: 'and?' };
    expect((await call('/v1/responses', next)).status).toBe(200);
    expect(sent().messages).toHaveLength(3);
    for (const stream of [false, true]) {
      const { body } = await call('/api/chat', { ...chat({ stream }), format: 'json' });
      const lines = body
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
      expect(lines.map(({ message }) => message?.content ?? '').join('')).toBe('hi there');
      expect(lines.at(-1)).toMatchObject({ done: true, prompt_eval_count: 11, eval_count: 7 });
      expect(sent().system).toContain('JSON object');
    }
  });

  it.each([
    ['/v1/chat/completions', chat()],
    ['/v1/responses', { model: 'm1', input: 'hello' }],
    ['/api/chat', chat({ stream: false })],
  ])('errors have the form of %s, without the key; a broken stream is one', async (path, body) => {
    const { call } = await bridge();
    claude.answer((_, response) =>
      sendJson(response, 429, { type: 'error', error: { type: 'rate_limit_error', message: `slow ${KEY}` } }),
    );
    const answer = await call(path, body);
    expect([answer.status, answer.body.includes('slow [removed]')]).toEqual([429, true]);
  });

  it('a stream that breaks off is an error for each of them', async () => {
    const { call } = await bridge();
    claude.answer((_, response) => {
      startEvents(response);
      response.end(sseOf(messageEvents({ text: 'half' }).slice(0, 4)));
    });
    const streams = [
      await call('/v1/chat/completions', chat({ stream: true })),
      await call('/v1/responses', { model: 'm1', input: 'hello', stream: true }),
      await call('/api/chat', chat({ stream: true })),
    ];
    const ends = ['[DONE]', 'response.completed', '"done":true'];
    for (const [i, { body }] of streams.entries()) {
      expect(body).toContain('half');
      expect(body).toMatch(/error/);
      expect(body).not.toContain(ends[i]);
    }
    expect((await call('/v1/chat/completions', chat())).status).toBe(502);
  });

  it('limits each form of a body separately', async () => {
    const { call } = await bridge({ limits: { bodyBytesMax: 3000 } });
    const input = 'x'.repeat(2000);
    expect((await call('/v1/responses', { model: 'm1', input })).status).toBe(200);
    expect((await call('/v1/responses', { model: 'm1', input: input.repeat(2) })).status).toBe(413);
  });

  it('falls back from either API to the other, each in its own form', async () => {
    const { call } = await bridge();
    claude.answer((_, response) => sendJson(response, 529, {}));
    const both = JSON.parse((await call('/v1/chat/completions', chat({ model: 'both' }))).body);
    expect(both.choices[0].message.content).toBe('from local');
    expect(sent(local)).toEqual(chat({ model: 'own' }));
    claude.answer(({ body }, response) => sendMessage(body, response, { text: 'from claude' }));
    local.answer((_, response) => sendJson(response, 503, {}));
    const late = JSON.parse((await call('/v1/chat/completions', chat({ model: 'late' }))).body);
    expect(late.choices[0].message.content).toBe('from claude');
  });
});
