import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Fields } from '../../fields.ts';
import type { JsonObject } from '../../json-body.ts';
import { OLLAMA_FIELDS, OLLAMA_HAZARDS } from './fields.ts';
import { ollamaDialect } from './ollama.ts';

function written(path: string, more: JsonObject): JsonObject {
  const body = { model: 'm', ...more };
  const route = ollamaDialect.route('POST', path);
  if (!route.ok || route.value.kind !== 'inference') throw new Error('route');
  const { operation } = route.value;
  const inspected = ollamaDialect.inspect(operation, body, {});
  if (!inspected.ok) return { ...inspected.refusal };
  const translated = ollamaDialect.translation?.request(operation, body);
  return translated?.ok ? { ...translated.value?.body } : { ...translated?.refusal };
}
const chat = (more: JsonObject) => written('/api/chat', { messages: [{ role: 'user', content: 'x' }], ...more });
const says = (...messages: JsonObject[]) => chat({ messages })['messages'];
const generate = (more: JsonObject) => written('/api/generate', { prompt: 'x', ...more });
const call = (name: string, more: JsonObject = {}) => ({ function: { name, arguments: { of: name } }, ...more });
const sentCall = (id: string, name: string) => ({
  id,
  type: 'function',
  function: { name, arguments: `{"of":"${name}"}` },
});

describe('Ollama: messages', () => {
  it('joins system messages at the beginning, and appends later ones to the user’s text', () => {
    expect(
      says(
        { role: 'system', content: 'a' },
        { role: 'System', content: 'b' },
        { role: 'user', content: 'x' },
        { role: 'system', content: 'c' },
      ),
    ).toEqual([
      { role: 'system', content: 'a\n\nb' },
      { role: 'user', content: 'x\n\n<system>\nc\n</system>' },
    ]);
  });

  it('finds the call of a result by its id, else its name, else the order', () => {
    const asked = (...calls: JsonObject[]) => ({ role: 'assistant', content: '', tool_calls: calls });
    const result = (content: string, more: JsonObject = {}) => ({ role: 'tool', content, ...more });
    const answered = (id: string, content: string) => ({ role: 'tool', tool_call_id: id, content });
    expect(
      says(
        asked(call('f'), call('g'), call('h', { id: 'own' }), call('f')),
        result('by id', { tool_call_id: 'own', tool_name: 'f' }),
        result('by name', { tool_name: 'g' }),
        result('by order'),
        result('the second f', { tool_name: 'f' }),
      ),
    ).toEqual([
      {
        role: 'assistant',
        content: null,
        tool_calls: [sentCall('call_0', 'f'), sentCall('call_1', 'g'), sentCall('own', 'h'), sentCall('call_3', 'f')],
      },
      answered('own', 'by id'),
      answered('call_1', 'by name'),
      answered('call_0', 'by order'),
      answered('call_3', 'the second f'),
    ]);
  });

  it('gives calls with equal ids different ones', () => {
    const turn = [
      { role: 'assistant', content: '', tool_calls: [call('f', { id: 'c' })] },
      { role: 'tool', content: 'r', tool_call_id: 'c' },
    ];
    const ids = JSON.stringify(says(...turn, ...turn)).match(/"tool_call_id":"\w+"/g);
    expect(ids).toEqual(['"tool_call_id":"c"', '"tool_call_id":"call_1"']);
  });

  it.each([
    ['iVBORw0KGgoAAA==', 'image/png'],
    ['/9j/4AAQ', 'image/jpeg'],
    ['R0lGODlh', 'image/gif'],
    ['UklGRgAA', 'image/webp'],
  ])('detects the type of the image %s', (data, type) => {
    const image = { type: 'image_url', image_url: { url: `data:${type};base64,${data}` } };
    expect(says({ role: 'user', content: 'x', images: [data] })).toEqual([
      { role: 'user', content: [{ type: 'text', text: 'x' }, image] },
    ]);
    expect(generate({ images: [data] })['messages']).toEqual([
      { role: 'user', content: [{ type: 'text', text: 'x' }, image] },
    ]);
  });
});

describe('Ollama: fields of requests', () => {
  it('writes what chat completions have, and drops the rest', () => {
    const options = {
      temperature: 0,
      top_p: 0.9,
      top_k: 40,
      min_p: 0.1,
      seed: 7,
      num_predict: 5,
      presence_penalty: 0.1,
      frequency_penalty: 0.2,
      stop: ['a', 'b'],
      num_ctx: 1,
      repeat_penalty: 1.1,
    };
    const more = { options, keep_alive: -1, truncate: true, shift: true, logprobs: false };
    expect(generate({ ...more, system: 's', stream: false })).toEqual({
      model: 'm',
      messages: [
        { role: 'system', content: 's' },
        { role: 'user', content: 'x' },
      ],
      max_tokens: 5,
      temperature: 0,
      top_p: 0.9,
      top_k: 40,
      min_p: 0.1,
      seed: 7,
      presence_penalty: 0.1,
      frequency_penalty: 0.2,
      stop: ['a', 'b'],
    });
  });

  it.each<[unknown, JsonObject]>([
    [undefined, { type: 'object', properties: {} }],
    [null, { type: 'object', properties: {} }],
    [
      { type: 'object', properties: null },
      { type: 'object', properties: {} },
    ],
    [
      { type: 'object', required: ['a'] },
      { type: 'object', required: ['a'] },
    ],
  ])('gives a tool with the parameters %j a schema', (parameters, schema) => {
    const tools = [{ type: 'function', function: { name: 'f', parameters } }];
    expect(chat({ tools })['tools']).toEqual([{ type: 'function', function: { name: 'f', parameters: schema } }]);
  });

  it('treats empty and default values as absent', () => {
    const empty = { system: '', template: '', suffix: '', context: [], raw: false, format: '' };
    const options = { num_predict: -1, seed: -1, stop: null, temperature: null };
    expect(generate({ ...empty, options, stream: false, images: null, think: null })).toEqual({
      model: 'm',
      messages: [{ role: 'user', content: 'x' }],
    });
  });

  it.each<[string, JsonObject]>([
    ['template', { template: 't' }],
    ['context', { context: [1] }],
    ['raw', { raw: true }],
    ['suffix', { suffix: 's' }],
    ['format', { format: 'xml' }],
    ['think', { think: 'a lot' }],
    ['options.seed', { options: { seed: '7' } }],
    ['options.stop.0', { options: { stop: [1] } }],
    ['options.num_ctx.x', { options: { num_ctx: { x: 1 } } }],
    ['images.0', { images: ['AAAA'] }],
    ['images.0', { images: ['iVBORw0KGgo=!'] }],
    ['images', { images: ['http://169.254.169.254/'] }],
    ['width', { width: 100 }],
    ['logprobs', { logprobs: true }],
    ['stream', { stream: 'no' }],
    ['model', { model: 7 }],
  ])('names the refused field %s', (name, body) => {
    expect(generate(body)).toMatchObject({
      status: 400,
      message: expect.stringContaining(name.split('.x', 1)[0] ?? ''),
    });
  });

  it.each<[string, JsonObject]>([
    ['tools.type', { tools: [{ type: 'web_search' }] }],
    ['tools.0.function.name', { tools: [{ function: {} }] }],
    ['messages.0.role', { messages: [{ role: 'x' }] }],
    ['messages', { messages: ['x'] }],
    ['messages.0.content', { messages: [{ role: 'user', content: 7 }] }],
    ['messages', { messages: 'x' }],
    ['messages.0', { messages: [{ role: 'tool', content: 'r' }] }],
    [
      'messages.0.tool_calls.0.function.arguments',
      { messages: [{ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: '{}' } }] }] },
    ],
    ['messages.0.tool_calls.1000', { messages: [{ role: 'assistant', tool_calls: Array(1001).fill(call('f')) }] }],
  ])('refuses %s of a chat', (name, body) => {
    expect(chat(body)).toMatchObject({ status: 400, message: expect.stringContaining(name) });
  });

  it('refuses inputs that are not texts', () => {
    for (const input of [[1], { a: 1 }]) {
      expect(written('/api/embed', { input })).toMatchObject({ status: 400 });
    }
    expect(written('/api/embeddings', { prompt: ['a'] })).toMatchObject({ status: 400 });
  });
});

describe('Ollama: estimates', () => {
  const long = 'x'.repeat(4000);
  const estimate = (path: string, more: JsonObject) => {
    const route = ollamaDialect.route('POST', path);
    if (!route.ok || route.value.kind !== 'inference') throw new Error('route');
    const translated = ollamaDialect.translation?.request(route.value.operation, { model: 'm', ...more });
    return translated?.ok ? translated.value?.promptTokensEstimate : -1;
  };
  it.each<[string, string, JsonObject]>([
    ['a message', '/api/chat', { messages: [{ role: 'user', content: long }] }],
    ['thinking', '/api/chat', { messages: [{ role: 'assistant', thinking: long }] }],
    ['a system message', '/api/chat', { messages: [{ role: 'system', content: long }] }],
    ['a system text', '/api/generate', { prompt: 'x', system: long }],
    ['a prompt', '/api/generate', { prompt: long }],
    ['a format', '/api/generate', { prompt: 'x', format: { title: long } }],
    ['inputs', '/api/embed', { input: ['x'.repeat(2000), 'x'.repeat(2000)] }],
  ])('count %s', (_, path, body) => {
    const tokens = estimate(path, body) ?? 0;
    expect(tokens).toBeGreaterThanOrEqual(1000);
    expect(tokens).toBeLessThan(1020);
  });
});

describe('Ollama: routes', () => {
  it.each([
    ['POST', '/api/chat/', 'inference'],
    ['POST', '/v1/api/chat', 'inference'],
    ['GET', '/api/tags?x=1', 'models'],
    ['HEAD', '/api/tags', 'models'],
    ['POST', '/api/show', 'describe'],
    ['HEAD', '/', 'fixed'],
  ])('serves %s %s', (method, url, kind) => {
    expect(ollamaDialect.route(method, url)).toMatchObject({ value: { kind } });
  });
  it.each([
    ['GET', '/api', 404],
    ['POST', '/api/constructor', 404],
    ['POST', '/api//chat', 404],
    ['POST', '/api/../api/chat', 404],
    ['POST', '/api/%63hat', 404],
    ['POST', '/', 405],
    ['GET', '/api/show', 405],
    ['DELETE', '/api/delete', 403],
    ['HEAD', '/api/blobs/sha256:0', 403],
    ['POST', '/api/pull/', 403],
  ])('does not serve %s %s', (method, url, status) => {
    expect(ollamaDialect.route(method, url)).toMatchObject({ refusal: { status } });
  });
});

describe('Ollama: fields', () => {
  const namesOf = (fields: Fields): string[] =>
    Object.entries(fields).flatMap(([name, shape]) => [
      name,
      ...(typeof shape === 'string' ? [] : namesOf(shape.fields ?? {})),
    ]);
  it('are all documented', () => {
    const docs = readFileSync(join(import.meta.dirname, '../../../../../docs/reference/ollama.md'), 'utf8');
    const names = Object.values(OLLAMA_FIELDS).flatMap((fields) => namesOf(fields));
    expect(names.filter((name) => !docs.includes(`\`${name}\``))).toEqual([]);
  });

  it.each([
    // The request types of ollama 0.6.3 for Python, except hazards and image generation.
    [
      'generate',
      'model stream options format keep_alive prompt suffix system template context raw images think logprobs top_logprobs',
    ],
    ['chat', 'model stream options format keep_alive messages tools think logprobs top_logprobs'],
    ['embed', 'model input truncate options keep_alive dimensions'],
    ['embeddings', 'model prompt options keep_alive'],
  ] as const)('of %s include all parameters of the client', (name, parameters) => {
    const known = Object.keys(OLLAMA_FIELDS[name]);
    expect(parameters.split(' ').filter((one) => !known.includes(one))).toEqual([]);
  });

  it('have hazards that are lower case', () => {
    for (const name of OLLAMA_HAZARDS.keys()) expect(name).toBe(name.toLowerCase());
  });
});
