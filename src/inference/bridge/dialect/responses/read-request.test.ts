import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Fields } from '../../fields.ts';
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import { dialectOf } from '../dialects.ts';
import { RESPONSES_FIELDS } from './fields.ts';
import { responsesDialect } from './responses.ts';

function translate(more: JsonObject) {
  const body = { model: 'm', input: 'x', ...more };
  const route = responsesDialect.route('POST', '/v1/responses');
  if (!route.ok || route.value.kind !== 'inference') throw new Error('route');
  const { operation } = route.value;
  const inspected = responsesDialect.inspect(operation, body, {});
  if (!inspected.ok) return { refusal: inspected.refusal };
  const translated = responsesDialect.translation?.request(operation, body);
  if (translated?.ok === false) return { refusal: translated.refusal };
  if (translated?.value === undefined) throw new Error('no translation');
  return translated.value;
}
const user = (...content: JsonObject[]) => ({ input: [{ role: 'user', content }] });
const image = (url: string) => user({ type: 'input_image', detail: 'auto', image_url: url });
const say = (text: string) => ({ role: 'user', content: text });

describe('Responses: refused requests', () => {
  it.each<[string, JsonObject, string]>([
    ['an image by URL', image('http://169.254.169.254/'), 'remote_media_refused'],
    ['an image of no base64', image('data:image/png,x'), 'remote_media_refused'],
    ['another type of image', image('data:image/svg+xml;base64,AAAA'), 'invalid_value'],
    ['a URL in its data', image('data:image/png;base64,http://x'), 'invalid_value'],
    ['an image by file id', user({ type: 'input_image', file_id: 'f' }), 'file_reference_refused'],
    ['a file by URL', user({ type: 'input_file', file_url: 'http://x' }), 'remote_media_refused'],
    ['a file', user({ type: 'input_file', file_data: 'AAAA' }), 'field_refused'],
    ['a file without anything', user({ type: 'input_file' }), 'field_refused'],
    ...['web_search', 'file_search', 'mcp', 'code_interpreter', 'image_generation', 'shell'].map(
      (type): [string, JsonObject, string] => [`the tool ${type}`, { tools: [{ type }] }, 'provider_tool_refused'],
    ),
    [
      'a hosted tool in a namespace',
      { tools: [{ type: 'namespace', name: 'n', tools: [{ type: 'web_search' }] }] },
      'provider_tool_refused',
    ],
    ['the choice of one', { tool_choice: { type: 'web_search' } }, 'provider_tool_refused'],
    ['an item of one', { input: [{ type: 'web_search_call', id: 'w' }] }, 'field_refused'],
    ['an item that asks to shorten', { input: [{ type: 'compaction_trigger' }] }, 'field_refused'],
    ['an MCP server', { tools: [{ server_url: 'http://x' }] }, 'provider_tool_refused'],
    ['a job', { background: true }, 'field_refused'],
    ['a conversation', { conversation: { id: 'c' } }, 'file_reference_refused'],
    ['a prompt', { prompt: { id: 'p' } }, 'file_reference_refused'],
    ['a priority', { service_tier: 'priority' }, 'field_refused'],
    ['probabilities', { include: ['message.output_text.logprobs'] }, 'field_refused'],
    ['an unknown field', { chat_template: 'x' }, 'field_refused'],
    ['no input', { input: null }, 'invalid_value'],
    ['half a token', { max_output_tokens: 0.5 }, 'invalid_value'],
    [
      'arguments that are no object',
      { input: [{ type: 'function_call', call_id: 'a', name: 'f', arguments: '[]' }] },
      'invalid_value',
    ],
    ['two tools of a name', { tools: [1, 2].map(() => ({ type: 'function', name: 'f' })) }, 'invalid_value'],
    ['a tool that is not offered', { tool_choice: { type: 'function', name: 'f' } }, 'invalid_value'],
    ['a model that is no name', { model: 5 }, 'invalid_value'],
  ])('refuses %s', (_, more, code) => {
    expect(translate(more)).toMatchObject({ refusal: { status: 400, code, message: expect.any(String) } });
  });

  it('names the place in the error', () => {
    const refusal = translate(user({ type: 'input_text', text: 'x' }, { type: 'input_text', text: 5 }));
    expect(refusal).toMatchObject({ refusal: { param: 'input.0.content.1.text' } });
  });
});

describe('Responses: the request for the upstream', () => {
  it('makes instructions and the first developer messages its system message', () => {
    const input = [
      { role: 'developer', content: 'a' },
      { type: 'message', role: 'system', content: [{ type: 'input_text', text: 'b' }] },
      say('c'),
      { role: 'developer', content: 'd' },
    ];
    expect(translate({ instructions: 'i', input })).toMatchObject({
      body: {
        messages: [
          { role: 'system', content: 'i\n\na\n\nb' },
          { role: 'user', content: 'c\n\n<system>\nd\n</system>' },
        ],
      },
    });
  });

  it('drops the records that Codex keeps in messages', () => {
    const passthrough = { turn_id: 't', create_time: 1.5, content_item_kinds: ['user.text'] };
    const item = { ...say('x'), internal_chat_message_metadata_passthrough: passthrough };
    expect(translate({ input: [item] })).toMatchObject({ body: { messages: [{ role: 'user', content: 'x' }] } });
  });

  it('joins reasoning, text, a refusal and calls into one message, with images of a result after it', () => {
    const input = [
      say('x'),
      { type: 'reasoning', id: 'r', summary: [{ type: 'summary_text', text: 'hm' }] },
      { type: 'reasoning', id: 'r', summary: [], encrypted_content: 'only for OpenAI' },
      { type: 'message', role: 'assistant', phase: 'commentary', content: [{ type: 'refusal', refusal: 'no' }] },
      { type: 'function_call', call_id: 'a', name: 'f', arguments: '{"q":1}', namespace: 'n' },
      { type: 'custom_tool_call', call_id: 'b', name: 'apply_patch', input: '*** Begin' },
      {
        type: 'local_shell_call',
        id: 'l',
        call_id: 'c',
        action: { type: 'exec', command: ['ls'], env: {}, working_directory: null },
      },
      {
        type: 'function_call_output',
        call_id: 'a',
        output: [{ type: 'input_image', image_url: 'data:image/png;base64,AAAA' }],
      },
      { type: 'custom_tool_call_output', call_id: 'b', output: 'ok' },
      { type: 'local_shell_call_output', id: 'c', output: '' },
    ];
    const named = (id: string, name: string, json: string) => ({
      id,
      type: 'function',
      function: { name, arguments: json },
    });
    expect(translate({ input })).toMatchObject({
      body: {
        messages: [
          { role: 'user', content: 'x' },
          {
            role: 'assistant',
            content: 'no',
            reasoning_content: 'hm',
            tool_calls: [
              named('a', 'n__f', '{"q":1}'),
              named('b', 'apply_patch', '{"input":"*** Begin"}'),
              named('c', 'local_shell', '{"command":["ls"]}'),
            ],
          },
          { role: 'tool', tool_call_id: 'a', content: '(images in the next message)' },
          { role: 'tool', tool_call_id: 'b', content: 'ok' },
          { role: 'tool', tool_call_id: 'c', content: '' },
          { role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } }] },
        ],
      },
    });
  });

  it('turns all tools into functions, whose original forms the answer knows', () => {
    const format = { type: 'grammar', syntax: 'lark', definition: 'start: "x"' };
    const translated = translate({
      tools: [
        { type: 'function', name: 'f', parameters: null, strict: true },
        { type: 'custom', name: 'apply_patch', description: 'd', format },
        { type: 'local_shell' },
        {
          type: 'namespace',
          name: 'mcp__x__',
          description: 'n',
          tools: [{ type: 'function', name: 'g', parameters: { type: 'object' } }],
        },
      ],
    });
    if (!('body' in translated)) throw new Error('refused');
    const tools = translated.body['tools'] as { function: JsonObject }[];
    expect(tools.map((tool) => tool.function['name'])).toEqual(['f', 'apply_patch', 'local_shell', 'mcp__x__g']);
    expect(tools[0]?.function).toEqual({ name: 'f', parameters: { type: 'object', properties: {} }, strict: true });
    expect(JSON.stringify(tools[1])).toContain('(lark):\\nstart: \\"x\\"');
    const forms = translated.answer.responses?.tools ?? [];
    expect(forms.map(({ type, name, namespace }) => [type, name, namespace])).toEqual([
      ['function', 'f', undefined],
      ['custom', 'apply_patch', undefined],
      ['local_shell', 'local_shell', undefined],
      ['function', 'g', 'mcp__x__'],
    ]);
  });

  const tools = ['f', 'g'].map((name) => ({ type: 'function', name, parameters: {} }));
  const named = { type: 'function', name: 'g' };
  it.each<[unknown, unknown, number]>([
    ['required', 'required', 2],
    ['none', 'none', 2],
    [named, { type: 'function', function: { name: 'g' } }, 2],
    [{ type: 'allowed_tools', mode: 'required', tools: [named] }, 'required', 1],
  ])('translates tool_choice %j', (choice, expected, count) => {
    const translated = translate({ tools, tool_choice: choice, parallel_tool_calls: false });
    expect(translated).toMatchObject({ body: { tool_choice: expected, parallel_tool_calls: false } });
    if ('body' in translated) expect(translated.body['tools']).toHaveLength(count);
  });

  it.each([
    [{ type: 'text' }, undefined],
    [{ type: 'json_object' }, { type: 'json_object' }],
    [
      { type: 'json_schema', name: 'n', schema: { a: 1 }, strict: false },
      { type: 'json_schema', json_schema: { name: 'answer', strict: false, schema: { a: 1 } } },
    ],
  ])('translates text.format %j', (format, expected) => {
    const translated = translate({ text: { format, verbosity: 'low' } });
    if (!('body' in translated)) throw new Error('refused');
    expect(translated.body['response_format']).toEqual(expected);
  });

  it('drops what only OpenAI’s servers understand', () => {
    const translated = translate({
      include: ['reasoning.encrypted_content'],
      metadata: { a: 'b' },
      client_metadata: { id: 'x' },
      truncation: 'auto',
      store: true,
      prompt_cache_key: 'k',
      stream_options: { include_obfuscation: false },
      service_tier: 'auto',
      reasoning: { effort: 'low', summary: 'auto' },
    });
    expect(translated).toMatchObject({
      body: { model: 'm', messages: [{ role: 'user', content: 'x' }], reasoning_effort: 'low' },
      answer: { responses: { summary: true, encrypted: true } },
    });
    if ('body' in translated) expect(Object.keys(translated.body)).toHaveLength(3);
  });

  it('does not repeat long members in the answer', () => {
    const translated = translate({ instructions: 'x'.repeat(100_000), tools: [] });
    expect(translated).toMatchObject({
      answer: { responses: { repeated: { instructions: null } } },
      promptTokensEstimate: 25_001,
    });
  });
});

describe('Responses: routes', () => {
  it.each([
    ['POST', '/v1/responses', 'inference'],
    ['POST', '/responses?x=1', 'inference'],
    ['POST', '/v1/responses/input_tokens', 'count'],
    ['GET', '/v1/responses/resp_1', 'kept'],
    ['DELETE', '/v1/responses/resp_1', 'kept'],
    ['GET', '/v1/responses/resp_1/input_items?limit=5', 'kept'],
  ])('serves %s %s: %s', (method, url, kind) => {
    expect(dialectOf(url, {}).name).toBe('responses');
    expect(responsesDialect.route(method, url)).toMatchObject({ value: { kind } });
  });
  it.each([
    ['GET', '/v1/responses/a/b/c', 404],
    ['POST', '/v1/responses/compact/', 404],
    ['GET', `/v1/responses/${'x'.repeat(101)}`, 404],
    ['GET', '/v1/responses/%2e%2e', 404],
    ['GET', '/v1/responses', 405],
  ])('refuses %s %s: %i', (method, url, status) => {
    expect(responsesDialect.route(method, url)).toMatchObject({ refusal: { status } });
  });
  it.each(['/v1/responsesx', '/v1/chat/responses', '/response'])('does not claim %s', (url) => {
    expect(dialectOf(url, {}).name).toBe('openai');
  });
});

describe('Responses: fields', () => {
  const namesOf = (fields: Fields): string[] =>
    Object.entries(fields).flatMap(([name, shape]) => [
      name,
      ...(isJsonObject(shape) && isJsonObject(shape['fields']) ? namesOf(shape['fields'] as Fields) : []),
    ]);
  it('are all documented', () => {
    const docs = readFileSync(join(import.meta.dirname, '../../../../../docs/reference/responses.md'), 'utf8');
    const missing = namesOf(RESPONSES_FIELDS.responses).filter((name) => !docs.includes(`\`${name}\``));
    expect([...new Set(missing)]).toEqual([]);
  });

  // The parameters of openai 7.59 for JavaScript, except those that are refused.
  it('include all parameters of the client', () => {
    const names =
      'include input instructions max_output_tokens max_tool_calls metadata model parallel_tool_calls ' +
      'previous_response_id prompt_cache_key prompt_cache_options prompt_cache_retention reasoning ' +
      'safety_identifier service_tier store stream stream_options temperature text tool_choice tools top_p ' +
      'truncation user background';
    const known = Object.keys(RESPONSES_FIELDS.responses);
    expect(names.split(' ').filter((name) => !known.includes(name))).toEqual([]);
  });
});
