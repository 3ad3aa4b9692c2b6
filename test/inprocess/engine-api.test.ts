/** The engine's HTTP API over a real socket, with a scripted model. */
import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { EngineError } from '../../src/inference/engine/errors.ts';
import { BODY_BYTES_MAX, createEngineServer } from '../../src/inference/engine/server.ts';
import { Service } from '../../src/inference/engine/service.ts';
import { QUEUE_MAX } from '../../src/inference/engine/slots.ts';
import { ScriptedBackend } from '../support/scripted-backend.ts';

const CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>';
const messages = [{ role: 'user', content: 'hi' }];
const tools = [{ type: 'function', function: { name: 'add', parameters: { properties: { a: {} } } } }];

let backend: ScriptedBackend;
let loaded: PromiseWithResolvers<Service>;
let server: ReturnType<typeof createEngineServer>;
let base: string;

beforeEach(async () => {
  backend = new ScriptedBackend();
  loaded = Promise.withResolvers<Service>();
  loaded.resolve(new Service(backend));
  await listen(loaded.promise);
});
afterEach(async () => {
  backend.release();
  await close();
});

async function listen(service: Promise<Service>): Promise<void> {
  server = createEngineServer({ modelId: 'm', service, log: silentLog, wall: () => 5_000 });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function close(): Promise<void> {
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
}

async function post(path: string, body: unknown): Promise<{ status: number; json: Answer; headers: Headers }> {
  const answer = await fetch(`${base}/v1${path}`, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify({ model: 'm', ...(body as object) }),
  });
  return { status: answer.status, json: (await answer.json()) as Answer, headers: answer.headers };
}

interface Answer {
  readonly error?: { readonly code: string; readonly param: string | null; readonly message: string };
  readonly choices?: {
    readonly text?: string;
    readonly message?: { readonly content: string | null; readonly tool_calls?: unknown };
    readonly delta?: { readonly role?: string; readonly content?: string; readonly tool_calls?: unknown };
    readonly finish_reason: string | null;
  }[];
  readonly usage?: object;
  readonly data?: { readonly embedding: unknown; readonly id?: string }[];
  readonly status?: string;
}

/** The events of a stream, `[DONE]` as null. */
async function stream(path: string, body: object): Promise<(Answer | null)[]> {
  const answer = await fetch(`${base}/v1${path}`, {
    method: 'POST',
    body: JSON.stringify({ model: 'm', stream: true, ...body }),
  });
  expect(answer.headers.get('content-type')).toContain('text/event-stream');
  const lines = (await answer.text()).split('\n\n').filter((line) => line !== '');
  return lines.map((line) => {
    expect(line).toMatch(/^data: /);
    return line === 'data: [DONE]' ? null : (JSON.parse(line.slice(6)) as Answer);
  });
}

describe('chat completions', () => {
  it('answers with text, finish reason and usage', async () => {
    backend.script(['Hello', ' there', '<end>', 'more']);
    const { status, json } = await post('/chat/completions', { messages });
    expect(status).toBe(200);
    expect(json).toMatchObject({
      object: 'chat.completion',
      created: 5,
      model: 'm',
      choices: [{ message: { role: 'assistant', content: 'Hello there' }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 1, completion_tokens: 3, total_tokens: 4, prompt_tokens_details: { cached_tokens: 1 } },
    });
    expect(backend.ends).toEqual(['left']);
  });

  it('streams role, deltas, finish reason, requested usage, and the end', async () => {
    backend.script(['a', 'b']);
    const events = await stream('/chat/completions', { messages, stream_options: { include_usage: true } });
    expect(events.map((event) => event?.choices?.[0]?.delta ?? event?.choices)).toEqual([
      { role: 'assistant', content: '' },
      { content: 'a' },
      { content: 'b' },
      {},
      [],
      undefined,
    ]);
    expect(events.at(-3)?.choices?.[0]?.finish_reason).toBe('stop');
    expect(events.at(-2)?.usage).toMatchObject({ completion_tokens: 2 });
    expect(events.at(-1)).toBeNull();
  });

  it('streams no usage unless requested', async () => {
    const events = await stream('/chat/completions', { messages });
    expect(events.filter((event) => event?.usage !== undefined)).toEqual([]);
  });

  it('finishes with "length" at the token limit', async () => {
    backend.script(['a', 'b', 'c']);
    const { json } = await post('/chat/completions', { messages, max_tokens: 2 });
    expect(json.choices?.[0]).toMatchObject({ message: { content: 'ab' }, finish_reason: 'length' });
  });

  it('answers with a tool call', async () => {
    backend.script([CALL.slice(0, 30), CALL.slice(30)]);
    const { json } = await post('/chat/completions', { messages, tools });
    expect(json.choices?.[0]).toMatchObject({
      finish_reason: 'tool_calls',
      message: { content: null, tool_calls: [{ type: 'function', function: { name: 'add', arguments: '{"a": 1}' } }] },
    });
  });

  it('completes a forced call that the prompt begins', async () => {
    backend.script([' {"a"', ': 2}}\n</tool_call>']);
    const { json } = await post('/chat/completions', { messages, tools, tool_choice: 'required' });
    expect(json.choices?.[0]?.message?.tool_calls).toMatchObject([
      { function: { name: 'add', arguments: '{"a": 2}' } },
    ]);
    expect(backend.prompts[0]).toMatchObject({ prefill: '<tool_call>\n{"name": "add", "arguments":' });
  });

  it('streams a tool call in deltas that join to the whole', async () => {
    backend.script([...CALL]);
    const events = await stream('/chat/completions', { messages, tools });
    const deltas = events.flatMap(
      (event) => (event?.choices?.[0]?.delta?.tool_calls ?? []) as { function: { name?: string; arguments: string } }[],
    );
    expect(deltas[0]).toMatchObject({ index: 0, type: 'function', function: { name: 'add' } });
    expect(deltas.map((delta) => delta.function.arguments).join('')).toBe('{"a": 1}');
    expect(events.at(-2)?.choices?.[0]?.finish_reason).toBe('tool_calls');
  });

  it('refuses a prompt that does not fit', async () => {
    const { status, json } = await post('/chat/completions', {
      messages: [{ role: 'user', content: 'x '.repeat(200) }],
    });
    expect([status, json.error?.code]).toEqual([400, 'context_length_exceeded']);
  });

  it('limits the answer to the rest of the context', async () => {
    await post('/chat/completions', { messages, max_tokens: 5_000 });
    expect(backend.requests[0]?.maxTokens).toBe(199);
  });

  it('answers an internal failure with 500, and keeps serving', async () => {
    backend.script(new Error('llama.cpp broke'));
    const { status, json } = await post('/chat/completions', { messages });
    expect([status, json.error?.code]).toEqual([500, 'internal']);
    expect(json.error?.message).not.toContain('llama.cpp broke');
    expect((await post('/chat/completions', { messages })).status).toBe(200);
  });
});

describe('cancelling', () => {
  it.each([true, false])('stops the generation when the client disconnects (stream: %s)', async (streamed) => {
    backend.script(['a', null, 'b']);
    const leaving = new AbortController();
    const request = fetch(`${base}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify({ model: 'm', messages, stream: streamed }),
      signal: leaving.signal,
    });
    await expect.poll(() => backend.requests.length).toBe(1);
    leaving.abort();
    await expect(request.then((answer) => answer.text())).rejects.toThrow();
    await expect.poll(() => backend.ends).toEqual(['aborted']);
  });

  it('cancels a queued request without running it', async () => {
    backend.script([null]);
    backend.script([null]);
    const running = [1, 2].map(() => post('/chat/completions', { messages }));
    await expect.poll(() => backend.requests.length).toBe(2);
    const leaving = new AbortController();
    const queued = fetch(`${base}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify({ model: 'm', messages }),
      signal: leaving.signal,
    });
    await expect.poll(() => health('waiting')).toBe(1);
    leaving.abort();
    await expect(queued).rejects.toThrow();
    await expect.poll(() => health('waiting')).toBe(0);
    backend.release();
    await Promise.all(running);
    expect(backend.requests.length).toBe(2);
  });
});

async function health(field: string): Promise<unknown> {
  const answer = await fetch(`${base}/health`);
  return ((await answer.json()) as Record<string, unknown>)[field];
}

describe('load', () => {
  it('runs one request per slot and refuses when the queue is full', async () => {
    const all = Array.from({ length: QUEUE_MAX + 3 }, () => {
      backend.script([null, 'x']);
      return post('/chat/completions', { messages });
    });
    const refused = await Promise.any(
      all.map(async (one) => {
        const answer = await one;
        if (answer.status === 200) throw new Error('served');
        return answer;
      }),
    );
    expect([refused.status, refused.json.error?.code]).toEqual([503, 'overloaded']);
    expect(refused.headers.get('retry-after')).toBe('2');
    expect(backend.requests.length).toBe(2);
    const release = setInterval(() => backend.release(), 1);
    const answers = await Promise.all(all);
    clearInterval(release);
    expect(answers.filter((one) => one.status === 200).length).toBe(QUEUE_MAX + 2);
  });
});

describe('loading', () => {
  it('makes requests wait for the model, and reports its state', async () => {
    await close();
    const later = Promise.withResolvers<Service>();
    await listen(later.promise);
    const answer = post('/chat/completions', { messages });
    expect(await health('status')).toBe('loading');
    later.resolve(new Service(backend));
    expect((await answer).status).toBe(200);
    expect(await health('status')).toBe('ok');
  });

  it('reports why the model can’t be loaded', async () => {
    await close();
    const failed = Promise.reject(new EngineError('out_of_memory', 'not enough memory'));
    await listen(failed);
    const { status, json } = await post('/chat/completions', { messages });
    expect([status, json.error?.code]).toEqual([503, 'out_of_memory']);
  });
});

describe('completions', () => {
  it('answers each prompt, with echo if requested', async () => {
    backend.script(['b']);
    backend.script(['d']);
    const { json } = await post('/completions', { prompt: ['a', 'c'], echo: true });
    expect(json).toMatchObject({
      object: 'text_completion',
      choices: [
        { index: 0, text: 'ab', finish_reason: 'stop' },
        { index: 1, text: 'cd', finish_reason: 'stop' },
      ],
      usage: { completion_tokens: 2 },
    });
  });

  it('streams', async () => {
    backend.script(['b', 'c']);
    const events = await stream('/completions', { prompt: 'a' });
    expect(events.map((event) => event?.choices?.[0]?.text)).toEqual(['b', 'c', '', undefined]);
    expect(events.at(-1)).toBeNull();
  });

  it('accepts token ids', async () => {
    await post('/completions', { prompt: [4, 5] });
    expect(backend.requests[0]?.tokens).toEqual([4, 5]);
  });
});

describe('embeddings', () => {
  it('returns a vector for each input, truncated to the requested dimensions', async () => {
    const { json } = await post('/embeddings', { input: ['a', 'b'], dimensions: 1 });
    expect(json.data?.map((one) => one.embedding)).toEqual([[1], [1]]);
    expect(json.usage).toEqual({ prompt_tokens: 2, total_tokens: 2 });
  });

  it('refuses more dimensions than the model has', async () => {
    const { status, json } = await post('/embeddings', { input: 'a', dimensions: 4 });
    expect([status, json.error?.param]).toEqual([400, 'dimensions']);
  });
});

describe('requests', () => {
  it.each([
    ['GET', '/v1/models', 200],
    ['GET', '/models?x=1', 200],
    ['GET', '/v1/models/m', 200],
    ['GET', '/v1/models/other', 404],
    ['GET', '/v1/models/%', 404],
    ['GET', '/health', 200],
    ['GET', '/', 404],
    ['GET', '/v1/chat/completions', 405],
    ['POST', '/v1/models', 405],
    ['POST', '/v1/responses', 404],
  ])('%s %s is %i', async (method, path, status) => {
    expect((await fetch(base + path, { method })).status).toBe(status);
  });

  it.each(['', '{', 'null', '[]', '"x"', '{"model":1}', '\u0000', '{"messages":'.repeat(1_000)])(
    'answers the body %j with 400',
    async (body) => {
      const { status, json } = await post('/chat/completions', body);
      expect([status, json.error?.code]).toEqual([400, 'bad_request']);
    },
  );

  it('reports its model', async () => {
    const { status, json } = await post('/embeddings', { model: 'gpt-9', input: 'a' });
    expect([status, json.error?.code]).toEqual([404, 'model_not_found']);
    expect(json.error?.message).toContain('"m"');
  });

  it('refuses a body above the limit without reading it to its end', async () => {
    const request = httpRequest(`${base}/v1/embeddings`, { method: 'POST' });
    request.on('error', () => undefined);
    const answer = once(request, 'response') as Promise<[IncomingMessage]>;
    const chunk = Buffer.alloc(1024 * 1024, ' ');
    for (let sent = 0; sent <= BODY_BYTES_MAX; sent += chunk.length) request.write(chunk);
    const [response] = await answer;
    expect(response.statusCode).toBe(413);
    expect(response.headers.connection).toBe('close');
    request.destroy();
  });
});
