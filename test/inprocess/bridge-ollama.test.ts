/** Ollama's API over real sockets, answered by a scripted upstream of the OpenAI API. */
import { request } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { answerByGates, sendAnswer, sseOf, streamedAnswer, wholeAnswer } from '../support/completions.ts';
import { delta, finish, sendJson, startEvents } from '../support/mock-upstream.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const PATH = '/api/chat';
const ask = (more: Record<string, unknown> = {}) => ({
  model: 'm1',
  messages: [{ role: 'user', content: 'hello' }],
  ...more,
});
const plain = (more: Record<string, unknown> = {}) => ask({ stream: false, ...more });
const sent = (i = 0) => JSON.parse(fixture.mock.requests[i]?.body ?? '{}');
type Line = Readonly<Record<string, unknown>>;
const linesOf = (text: string): Line[] =>
  text
    .split('\n')
    .filter((line, i, all) => line !== '' || i < all.length - 1)
    .map((line) => JSON.parse(line));
const CREATED = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
const DONE = {
  done: true,
  done_reason: 'stop',
  total_duration: expect.any(Number),
  load_duration: 0,
  prompt_eval_count: 11,
  prompt_eval_duration: expect.any(Number),
  eval_count: 7,
  eval_duration: expect.any(Number),
};

function head(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath: fixture.socketPath, path, method: 'HEAD' });
    outgoing.once('response', (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    outgoing.once('error', reject);
    outgoing.end();
  });
}

describe('bridge: Ollama’s chat and generate', () => {
  it('serves a chat from chat completions, with the host’s key', async () => {
    fixture = await bridgeFixture({ apiKey: 'sk-host' });
    const settled = fixture.nextUsage();
    fixture.mock.answer(({ body }, response) => sendAnswer(body, response, { text: 'hi there' }));
    const options = { temperature: 0.5, num_predict: 9, stop: ['END'], num_ctx: 2048, mirostat: 1 };
    const body = plain({ options, keep_alive: '5m' });
    const answer = await fixture.call(PATH, body, { authorization: 'Bearer guest' });
    expect(answer).toMatchObject({ status: 200, broken: false });
    expect(answer.headers['content-type']).toBe('application/json');
    expect(JSON.parse(answer.body)).toEqual({
      model: 'm1',
      created_at: CREATED,
      message: { role: 'assistant', content: 'hi there' },
      ...DONE,
    });
    expect(fixture.mock.requests[0]).toMatchObject({ path: '/v1/chat/completions' });
    expect(sent()).toEqual({
      model: 'm1',
      messages: [{ role: 'user', content: 'hello' }],
      temperature: 0.5,
      max_tokens: 9,
      stop: ['END'],
    });
    const headers = JSON.stringify(fixture.mock.requests[0]?.headers);
    expect(headers).toContain('Bearer sk-host');
    expect(headers).not.toContain('guest');
    expect(await settled).toMatchObject({ operation: 'chat', promptTokens: 11, outcome: 'ok' });
  });

  it('streams by default: a line for each part, as they come', async () => {
    fixture = await bridgeFixture();
    const gates = answerByGates(fixture.mock, streamedAnswer({ text: 'héllo wörld 🙂' }, 4));
    const opened = fixture.open('/api/generate', { model: 'm1', prompt: 'hello' });
    expect((await opened.head).headers['content-type']).toBe('application/x-ndjson');
    for (const gate of gates.slice(0, 2)) gate.resolve();
    await opened.until('"response":"héll"');
    for (const gate of gates) gate.resolve();
    expect(await opened.ended).toEqual({ broken: false });
    const lines = linesOf(opened.text());
    const last = lines.pop();
    expect(lines.map(({ response }) => response).join('')).toBe('héllo wörld 🙂');
    for (const line of lines) expect(line).toMatchObject({ model: 'm1', done: false });
    expect(last).toEqual({ model: 'm1', created_at: CREATED, response: '', ...DONE });
    expect(sent()).toMatchObject({ stream: true, stream_options: { include_usage: true } });
  });

  it('sends nothing while the upstream is silent, and its error still has a status', async () => {
    fixture = await bridgeFixture({ policy: { limits: { keepAliveIntervalMs: 5 } } });
    const silent = Promise.withResolvers<void>();
    fixture.mock.answer(async (_, response) => {
      await silent.promise;
      sendJson(response, 429, { error: { message: 'slow down' } }, { 'retry-after': '3' });
    });
    const arrived = fixture.mock.next();
    const opened = fixture.open(PATH, ask());
    await arrived;
    // A client of Anthropic's API on the same port has received keep-alives by now.
    const other = fixture.open('/v1/messages', { ...ask({ stream: true }), max_tokens: 9 });
    await other.until('ping');
    silent.resolve();
    const { statusCode, headers } = await opened.head;
    expect([statusCode, headers['retry-after']]).toEqual([429, '3']);
    await opened.ended;
    expect(JSON.parse(opened.text())).toEqual({ error: 'slow down' });
    await other.ended;
  });

  it('translates the answer in any form that the upstream chose', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_, response) => sendJson(response, 200, wholeAnswer({ text: 'whole' })));
    const streamed = linesOf((await fixture.call(PATH, ask())).body);
    expect(streamed).toMatchObject([{ message: { content: 'whole' } }, { done: true }]);
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.end(sseOf(streamedAnswer({ text: 'in pieces' })));
    });
    const whole = JSON.parse((await fixture.call(PATH, plain())).body);
    expect(whole).toMatchObject({ message: { content: 'in pieces' }, done: true });
  });

  it('returns whole tool calls with objects, in one line each', async () => {
    fixture = await bridgeFixture();
    const calls = [1, 2].map((n) => ({ id: `c${n}`, name: 'f', arguments: `{"n":${n}}` }));
    fixture.mock.answer(({ body }, response) => sendAnswer(body, response, { calls }));
    const lines = linesOf((await fixture.call(PATH, ask())).body);
    const asked = [1, 2].map((n) => ({ id: `c${n}`, function: { index: n - 1, name: 'f', arguments: { n } } }));
    expect(lines.slice(0, -1).map(({ message }) => message)).toEqual(
      asked.map((call) => ({ role: 'assistant', content: '', tool_calls: [call] })),
    );
    const whole = JSON.parse((await fixture.call(PATH, plain())).body);
    expect(whole.message.tool_calls).toEqual(asked);
  });

  it('a call that was cut off is omitted', async () => {
    fixture = await bridgeFixture();
    const calls = [{ id: 'c', name: 'rm', arguments: '{"path":"/tmp' }];
    fixture.mock.answer(({ body }, response) => sendAnswer(body, response, { text: 'so', calls, finish: 'length' }));
    const whole = JSON.parse((await fixture.call(PATH, plain())).body);
    expect(whole).toMatchObject({ done: true, done_reason: 'length' });
    expect(whole.message).toEqual({ role: 'assistant', content: 'so' });
    const streamed = (await fixture.call(PATH, ask())).body;
    expect(streamed).not.toContain('tool_calls');
    expect(linesOf(streamed).at(-1)).toMatchObject({ done_reason: 'length' });
  });

  it.each([
    [undefined, true, undefined],
    [true, true, undefined],
    ['high', true, 'high'],
    [false, false, undefined],
  ])('think %j: reasoning comes back %j, effort %j', async (think, isThere, effort) => {
    fixture = await bridgeFixture();
    fixture.mock.answer(({ body }, response) => sendAnswer(body, response, { reasoning: 'hmm', text: 'x' }));
    const { message } = JSON.parse((await fixture.call(PATH, plain({ think }))).body);
    expect(message.thinking).toBe(isThere ? 'hmm' : undefined);
    expect((await fixture.call(PATH, ask({ think }))).body.includes('hmm')).toBe(isThere);
    expect(sent().reasoning_effort).toBe(effort);
  });

  it.each([
    [PATH, { messages: [] }, { message: { role: 'assistant', content: '' }, done_reason: 'load' }],
    [PATH, { messages: [], keep_alive: 0 }, { done_reason: 'unload' }],
    ['/api/generate', {}, { response: '', done_reason: 'load' }],
    ['/api/generate', { prompt: '', keep_alive: '0s' }, { response: '', done_reason: 'unload' }],
    ['/api/generate', { prompt: '', keep_alive: '10s' }, { response: '', done_reason: 'load' }],
  ])('%s with %j is answered without the upstream', async (path, body, answer) => {
    fixture = await bridgeFixture();
    const loaded = await fixture.call(path, { model: 'm1', ...body });
    expect(loaded.headers['content-type']).toMatch(/^application\/json/);
    expect(JSON.parse(loaded.body)).toMatchObject({ model: 'm1', done: true, ...answer });
    const unknown = await fixture.call(path, { model: 'nope', ...body });
    expect([unknown.status, JSON.parse(unknown.body)]).toEqual([
      404,
      { error: expect.stringContaining('"nope" does not exist here') },
    ]);
    expect(fixture.mock.requests).toEqual([]);
    await expect.poll(() => fixture.port.stats()).toMatchObject({ inFlight: 0, bodyBytes: 0 });
  });
});

describe('bridge: Ollama’s models', () => {
  it('shows only the sandbox’s models', async () => {
    const policy = { allowModels: ['m2'], aliases: { mine: 'm2' } };
    fixture = await bridgeFixture({ policy });
    const { models } = JSON.parse((await fixture.call('/api/tags')).body);
    expect(models.map(({ name, model }: Line) => [name, model])).toEqual([
      ['m2', 'm2'],
      ['mine', 'mine'],
    ]);
    expect(models[0].digest).toMatch(/^[0-9a-f]{64}$/);
    for (const [model, status] of Object.entries({ m1: 404, m2: 200, mine: 200, 'm2:latest': 200 })) {
      expect((await fixture.call('/api/show', { model })).status).toBe(status);
      expect((await fixture.call(PATH, plain({ model }))).status).toBe(status);
    }
    expect(fixture.mock.requests.map(({ body }) => JSON.parse(body).model)).toEqual(Array(3).fill('m2'));
  });

  it('finds names with and without their tag', async () => {
    fixture = await bridgeFixture({ models: ['m1', 'm2:latest'], policy: { aliases: { a: 'm1' } } });
    for (const model of ['m1:latest', 'm2', 'm2:latest', 'a:latest']) {
      expect((await fixture.call(PATH, plain({ model }))).status).toBe(200);
    }
    expect(fixture.mock.requests.map(({ body }) => JSON.parse(body).model)).toEqual([
      'm1',
      'm2:latest',
      'm2:latest',
      'm1',
    ]);
    expect((await fixture.call(PATH, plain({ model: 'm1:7b' }))).status).toBe(404);
  });

  it('a body that no answer needs is dropped up to the limit, and ends the connection', async () => {
    fixture = await bridgeFixture({ policy: { limits: { lingerBytesMax: 1_000 } } });
    for (const line of ['GET /api/version', 'HEAD /']) {
      const head = `${line} HTTP/1.1\r\nhost: x\r\ncontent-length: 900000000\r\n\r\n`;
      const seen = await fixture.raw(head + 'x'.repeat(100_000));
      expect(seen).toMatch(/^HTTP\/1\.1 200 OK/);
      expect(seen).toMatch(/connection: close/i);
    }
  });

  it('reports that it runs, and its version, without the upstream', async () => {
    fixture = await bridgeFixture({ upstream: () => Promise.reject(new Error('none')) });
    const root = await fixture.call('/');
    expect([root.status, root.body]).toEqual([200, 'Ollama is running']);
    expect(JSON.parse((await fixture.call('/api/version')).body)).toEqual({
      version: expect.stringMatching(/^\d+\.\d+\.\d+$/),
    });
    expect(JSON.parse((await fixture.call('/api/ps')).body)).toEqual({ models: [] });
    expect([await head('/'), await head('/api/version')]).toEqual([200, 200]);
    expect((await fixture.call('/api/tags')).status).toBe(503);
  });

  it.each(['pull', 'push', 'create', 'copy', 'delete', 'blobs/sha256:1', 'me'])('refuses /api/%s', async (name) => {
    fixture = await bridgeFixture();
    const answer = await fixture.call(`/api/${name}`, { model: 'm3' });
    expect([answer.status, JSON.parse(answer.body)]).toEqual([
      403,
      { error: expect.stringContaining('may not change the models of the host') },
    ]);
  });
});

describe('bridge: Ollama’s embeddings', () => {
  const models = ['embed-1'];
  const embed = (input: unknown, more: object = {}) => ({ model: 'embed-1', input, ...more });

  it('forwards numbers as the upstream wrote them', async () => {
    fixture = await bridgeFixture({ models });
    const settled = fixture.nextUsage();
    fixture.mock.answer((_, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(
        '{"object":"list","data":[{"index":0,"embedding":[ 0.10, -2e-7]},' +
          '{"embedding":[3.00000000000000000001],"index":1}],"usage":{"prompt_tokens":4}}',
      );
    });
    const answer = await fixture.call('/api/embed', embed(['a', 'b'], { dimensions: 2 }));
    expect(answer.body).toContain('"embeddings":[[ 0.10, -2e-7],[3.00000000000000000001]]');
    expect(JSON.parse(answer.body)).toMatchObject({ model: 'embed-1', prompt_eval_count: 4 });
    expect(sent()).toEqual({ model: 'embed-1', input: ['a', 'b'], encoding_format: 'float', dimensions: 2 });
    expect(await settled).toMatchObject({ operation: 'embed', promptTokens: 4, outcome: 'ok' });
  });

  it('returns no vectors for no input', async () => {
    fixture = await bridgeFixture({ models });
    for (const input of [[], '', undefined]) {
      const answer = await fixture.call('/api/embed', embed(input));
      expect(JSON.parse(answer.body)).toEqual({ model: 'embed-1', embeddings: [] });
    }
    const old = await fixture.call('/api/embeddings', { model: 'embed-1' });
    expect(JSON.parse(old.body)).toEqual({ embedding: [] });
    expect(fixture.mock.requests).toEqual([]);
  });

  it.each([
    ['one too few', '{"data":[{"index":0,"embedding":[1]}]}'],
    ['an index twice', '{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[2]}]}'],
    ['another order', '{"data":[{"index":1,"embedding":[1]},{"index":0,"embedding":[2]}]}'],
    ['an index too high', '{"data":[{"index":0,"embedding":[1]},{"index":2,"embedding":[2]}]}'],
    ['no numbers', '{"data":[{"embedding":[1]},{"embedding":[]}]}'],
    ['a number for a list', '{"data":[{"embedding":[1]},{"embedding":7}]}'],
    ['base64', '{"data":[{"embedding":"AAAA"},{"embedding":"AAAA"}]}'],
    ['no list', '{"data":"[1],[2]"}'],
    ['no JSON', '"embedding":[1],"embedding":[2]'],
  ])('an answer with %s is an error', async (_, body) => {
    fixture = await bridgeFixture({ models });
    fixture.mock.answer((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(body);
    });
    const answer = await fixture.call('/api/embed', embed(['a', 'b']));
    expect([answer.status, JSON.parse(answer.body)]).toEqual([
      502,
      { error: 'The model server sent an invalid answer.' },
    ]);
  });

  it.each([
    [1000, false],
    [999, true],
  ])('of a large batch, %i vectors come as they are made, broken: %s', async (count, broken) => {
    fixture = await bridgeFixture({ models, policy: { limits: { answerBytesMax: 1000 } } });
    const inputs = Array.from({ length: 1000 }, (_, i) => `${i}`);
    const vector = Array.from({ length: 100 }, (_, i) => i / 7);
    const data = inputs.slice(0, count).map((_, index) => ({ embedding: vector, index }));
    const rest = Promise.withResolvers<void>();
    fixture.mock.answer(async (_, response) => {
      const text = JSON.stringify({ data });
      response.writeHead(200, { 'content-type': 'application/json' });
      response.write(text.slice(0, 200_000));
      await rest.promise;
      response.end(text.slice(200_000));
    });
    const opened = fixture.open('/api/embed', embed(inputs));
    await opened.until('[[');
    rest.resolve();
    expect(await opened.ended).toEqual({ broken });
    if (broken) return;
    expect(JSON.parse(opened.text()).embeddings).toEqual(data.map(({ embedding }) => embedding));
  });

  it('a stream for vectors is an error', async () => {
    fixture = await bridgeFixture({ models });
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.end(sseOf(['{}', '[DONE]']));
    });
    expect((await fixture.call('/api/embed', embed('a'))).status).toBe(502);
  });
});

describe('bridge: errors for Ollama’s clients', () => {
  it.each([
    [404, 'GET', '/api/nothing', undefined],
    [405, 'GET', PATH, undefined],
    [400, 'POST', PATH, ask({ tools: [{ type: 'web_search' }] })],
    [400, 'POST', PATH, ask({ options: { unheard_of: 1 } })],
    [400, 'POST', PATH, ask({ logprobs: true })],
    [400, 'POST', PATH, ask({ model: undefined })],
    [400, 'POST', PATH, ask({ messages: [{ role: 'tool', content: 'x' }] })],
    [400, 'POST', '/api/show', {}],
  ])('%i for %s %s', async (status, _, path, body) => {
    fixture = await bridgeFixture();
    const answer = await fixture.call(path, body);
    expect([answer.status, JSON.parse(answer.body)]).toEqual([status, { error: expect.any(String) }]);
    expect(fixture.mock.requests).toEqual([]);
  });

  it.each([
    ['ends without a finish reason', delta('half')],
    ['is no JSON', `${delta('half')}data: {\n\n`],
    ['has an error', `${delta('half')}data: {"error":{"message":"key sk-host-secret"}}\n\n`],
    [
      'breaks a call',
      `${delta('half')}data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{"}}]}}]}\n\n${finish}`,
    ],
  ])('a stream that %s ends with an error, never with done', async (_, events) => {
    fixture = await bridgeFixture({ apiKey: 'sk-host-secret' });
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.end(events);
    });
    const streamed = await fixture.call(PATH, ask());
    const lines = linesOf(streamed.body);
    expect(lines.at(-1)).toEqual({ error: expect.any(String) });
    expect(streamed.body).not.toMatch(/"done":true|sk-host/);
    const whole = await fixture.call(PATH, plain());
    expect([whole.status, JSON.parse(whole.body)]).toEqual([502, { error: expect.any(String) }]);
    expect(whole.body).not.toContain('sk-host');
  });

  it('a client that disconnects in mid-stream ends the upstream’s request', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.write(delta('one'));
    });
    const arrived = fixture.mock.next();
    const settled = fixture.nextUsage();
    const opened = fixture.open(PATH, ask());
    await opened.until('one');
    opened.abort();
    await (await arrived).aborted;
    expect(await settled).toMatchObject({ outcome: 'cancelled', completionTokens: 1 });
  });
});
