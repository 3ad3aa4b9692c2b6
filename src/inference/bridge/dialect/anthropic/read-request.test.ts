import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Fields } from '../../fields.ts';
import type { JsonObject } from '../../json-body.ts';
import { writeRequest } from '../openai/write-request.ts';
import { anthropicDialect } from './anthropic.ts';
import { ANTHROPIC_FIELDS } from './fields.ts';

function translate(more: JsonObject) {
  const body = { model: 'm', max_tokens: 9, messages: [{ role: 'user', content: 'x' }], ...more };
  const route = anthropicDialect.route('POST', '/v1/messages');
  if (!route.ok || route.value.kind !== 'inference') throw new Error('route');
  const { operation } = route.value;
  const inspected = anthropicDialect.inspect(operation, body, {});
  if (!inspected.ok) return inspected.refusal;
  const translated = anthropicDialect.translation?.request(operation, body);
  return translated?.ok ? translated.value?.body : translated?.refusal;
}
const user = (...content: JsonObject[]) => ({ messages: [{ role: 'user', content }] });
const image = (source: JsonObject): JsonObject => ({ type: 'image', source });
const PNG = { type: 'base64', media_type: 'image/png', data: 'AAAA' };
const DATA_URL = { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } };

describe('Messages: refused requests', () => {
  it.each([
    ['an image by URL', user(image({ type: 'url', url: 'http://x/' })), 'remote_media_refused'],
    ['an image by file id', user(image({ type: 'file', file_id: 'f' })), 'file_reference_refused'],
    ['an image of a type without data', user(image({ type: 'url' })), 'remote_media_refused'],
    ['a URL in place of base64', user(image({ ...PNG, data: 'http://169.254.169.254/' })), 'invalid_value'],
    ['another type of image', user(image({ ...PNG, media_type: 'image/svg+xml' })), 'invalid_value'],
    ['a type that ends the data URL', user(image({ ...PNG, media_type: 'image/png,x' })), 'invalid_value'],
    ['a PDF', user({ type: 'document', source: { ...PNG, media_type: 'application/pdf' } }), 'field_refused'],
    ['a tool of the server', { tools: [{ type: 'web_search_20250305', name: 'web_search' }] }, 'provider_tool_refused'],
    ['MCP servers', { mcp_servers: [{ url: 'http://x/' }] }, 'provider_tool_refused'],
    ['a container', { container: 'c1' }, 'file_reference_refused'],
    ['other models', { fallbacks: [{ model: 'x' }] }, 'field_refused'],
    ['a block of a server tool', user({ type: 'server_tool_use' }), 'field_refused'],
    ['an unknown field', { chat_template: 'x' }, 'field_refused'],
    ['a priority', { service_tier: 'priority' }, 'field_refused'],
    ['no limit', { max_tokens: null }, 'invalid_value'],
    ['half a token', { max_tokens: 0.5 }, 'invalid_value'],
    ['no message', { messages: [] }, 'invalid_value'],
    [
      'a string as input of a tool',
      { messages: [{ role: 'assistant', content: [{ type: 'tool_use', id: 'a', name: 'f', input: 'x' }] }] },
      'invalid_value',
    ],
    ['a role', { messages: [{ role: 'tool', content: 'x' }] }, 'invalid_value'],
  ])('refuses %s', (_, more, code) => {
    expect(translate(more)).toMatchObject({ status: 400, code, message: expect.any(String) });
  });

  it('names the place in the error', () => {
    const refusal = translate(user({ type: 'text', text: 'x' }, { type: 'text', text: 5 }));
    expect(refusal).toMatchObject({ param: 'messages.0.content.1.text' });
  });
});

describe('Messages: the request for the upstream', () => {
  it('puts tool results first, and their images into the user message after them', () => {
    const result = {
      type: 'tool_result',
      tool_use_id: 'a',
      is_error: true,
      content: [{ type: 'text', text: 'bad' }, image(PNG)],
    };
    const empty = { type: 'tool_result', tool_use_id: 'b' };
    const text = { type: 'text', text: 'go on', cache_control: { type: 'ephemeral' } };
    expect(translate(user(result, empty, text))).toMatchObject({
      messages: [
        { role: 'tool', tool_call_id: 'a', content: 'Error: bad' },
        { role: 'tool', tool_call_id: 'b', content: '' },
        { role: 'user', content: [DATA_URL, { type: 'text', text: 'go on' }] },
      ],
    });
  });

  it('names the tools that a result loads', () => {
    const content = ['Edit', 'Write'].map((name) => ({ type: 'tool_reference', tool_name: name }));
    expect(translate(user({ type: 'tool_result', tool_use_id: 'a', content }))).toMatchObject({
      messages: [{ role: 'tool', content: 'The tool Edit is available now.\n\nThe tool Write is available now.' }],
    });
  });

  it('joins calls, reasoning and text of an assistant, and neighboring messages of one role', () => {
    const assistant = (...content: JsonObject[]) => ({ role: 'assistant', content });
    const messages = [
      { role: 'user', content: 'a' },
      { role: 'user', content: 'b' },
      assistant(
        { type: 'thinking', thinking: 'hm', signature: 's' },
        { type: 'redacted_thinking', data: 'x' },
        { type: 'text', text: 'so', citations: null },
      ),
      assistant({ type: 'tool_use', id: 't', name: 'f', input: { q: 1 } }),
    ];
    expect(translate({ messages })).toMatchObject({
      messages: [
        { role: 'user', content: 'a\n\nb' },
        {
          role: 'assistant',
          content: 'so',
          reasoning_content: 'hm',
          tool_calls: [{ id: 't', type: 'function', function: { name: 'f', arguments: '{"q":1}' } }],
        },
      ],
    });
  });

  it('appends a later system message to the user’s message', () => {
    const messages = [
      { role: 'user', content: 'a' },
      { role: 'system', content: [{ type: 'text', text: 'be brief' }] },
    ];
    expect(translate({ system: 's', messages })).toMatchObject({
      messages: [
        { role: 'system', content: 's' },
        { role: 'user', content: 'a\n\n<system>\nbe brief\n</system>' },
      ],
    });
  });

  const tools = [{ name: 'f', input_schema: { type: 'object' }, cache_control: null }];
  it.each([
    [{ type: 'auto', disable_parallel_tool_use: true }, 'auto', false],
    [{ type: 'any' }, 'required', undefined],
    [{ type: 'none' }, 'none', undefined],
    [{ type: 'tool', name: 'f' }, { type: 'function', function: { name: 'f' } }, undefined],
  ])('translates tool_choice %j', (choice, expected, parallel) => {
    const body = translate({ tools, tool_choice: choice }) as JsonObject;
    expect(body['tool_choice']).toEqual(expected);
    expect(body['parallel_tool_calls']).toBe(parallel);
    expect(body['tools']).toEqual([{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }]);
    expect(translate({ tool_choice: choice })).not.toHaveProperty('tool_choice');
  });

  it('omits what only Anthropic’s servers understand', () => {
    const body = translate({
      thinking: { type: 'enabled', budget_tokens: 1024 },
      context_management: { edits: [] },
      output_config: { effort: 'high' },
      messages: [{ role: 'user', content: 'x', output_config: { effort: 'low' } }],
      service_tier: 'auto',
      betas: ['x'],
      metadata: { user_id: 'u' },
    });
    expect(body).toEqual(
      writeRequest({
        model: 'm',
        stream: false,
        system: '',
        messages: [{ role: 'user', parts: [{ type: 'text', text: 'x' }] }],
        tools: [],
        toolChoice: undefined,
        parallelToolCalls: true,
        maxTokens: 9,
        temperature: undefined,
        topP: undefined,
        topK: undefined,
        stop: [],
        format: undefined,
      }),
    );
  });
});

describe('Messages: the token estimate', () => {
  const text = 'x'.repeat(4000);
  const estimate = (more: JsonObject, messages: unknown[] = [{ role: 'user', content: '' }]) => {
    const operation = { name: 'chat', upstreamPath: '/chat/completions', required: [], generates: true };
    const body = { model: 'm', max_tokens: 9, messages, ...more };
    const translated = anthropicDialect.translation?.request(operation, body);
    return translated?.ok ? (translated.value?.promptTokensEstimate ?? -1) : -1;
  };
  const says = (role: string, ...content: JsonObject[]) => estimate({}, [{ role, content }]);
  const source = { type: 'text', media_type: 'text/plain', data: text };
  it.each([
    ['system', () => estimate({ system: text })],
    ['a text', () => says('user', { type: 'text', text })],
    ['a document', () => says('user', { type: 'document', source })],
    ['its title', () => says('user', { type: 'document', title: text, source: { ...source, data: '' } })],
    ['a result', () => says('user', { type: 'tool_result', tool_use_id: 'a', content: text })],
    ['reasoning', () => says('assistant', { type: 'thinking', thinking: text })],
    ['arguments', () => says('assistant', { type: 'tool_use', id: 'a', name: 'f', input: { text } })],
    ['a tool', () => estimate({ tools: [{ name: 'f', input_schema: { title: text } }] })],
    ['a format', () => estimate({ output_format: { type: 'json_schema', schema: { title: text } } })],
  ])('counts %s', (_, estimated) => {
    expect(estimated()).toBeGreaterThanOrEqual(1000);
    expect(estimated()).toBeLessThan(1020);
  });
  it('counts no images', () => {
    expect(says('user', image({ ...PNG, data: 'A'.repeat(4000) }))).toBe(0);
  });
});

describe('Messages: headers', () => {
  it.each([
    ['req_1', { 'request-id': 'req_1' }],
    ['r\u00e9', {}],
    ['x'.repeat(5000), {}],
  ])('passes an id of the upstream only if it is plain', (id, headers) => {
    expect(anthropicDialect.translation?.answerHeaders({ 'x-request-id': id })).toEqual(headers);
  });
});

describe('Messages: routes', () => {
  it.each(['/v1/messages/', '/messages', '/v1/v1/messages'])('serves %s', (url) => {
    expect(anthropicDialect.route('POST', url)).toMatchObject({ value: { kind: 'inference' } });
  });
  it.each(['/v1/messages/batches', '/v1//messages', '/v1/messages/../x', '/v1/v1/v1/messages'])(
    'does not serve %s',
    (url) => {
      expect(anthropicDialect.route('POST', url)).toMatchObject({ refusal: { status: 404 } });
    },
  );
});

describe('Messages: fields', () => {
  const namesOf = (fields: Fields): string[] =>
    Object.entries(fields).flatMap(([name, shape]) => [
      name,
      ...(typeof shape === 'string' ? [] : namesOf(shape.fields ?? {})),
    ]);
  it('are all documented', () => {
    const docs = readFileSync(join(import.meta.dirname, '../../../../../docs/reference/messages.md'), 'utf8');
    const missing = namesOf(ANTHROPIC_FIELDS.chat).filter((name) => !docs.includes(`\`${name}\``));
    expect(missing).toEqual([]);
  });

  // The parameters of @anthropic-ai/sdk 1.14, except those among the hazards.
  it('include all parameters of the client', () => {
    const names =
      'cache_control diagnostics inference_geo max_tokens messages metadata model output_config service_tier speed stop_sequences ' +
      'stream system temperature thinking tool_choice tools top_k top_p';
    const known = Object.keys(ANTHROPIC_FIELDS.chat);
    expect(names.split(' ').filter((name) => !known.includes(name))).toEqual([]);
  });
});
