import { describe, expect, it } from 'vitest';
import { EngineError } from './errors.ts';
import { parseChat, parseCompletion, parseEmbedding } from './openai-api.ts';

const user = { role: 'user', content: 'hi' };
const add = { type: 'function', function: { name: 'add', parameters: { type: 'object' } } };

/** The wrong field; `null` if the body is accepted. */
function fault(parse: (body: unknown) => unknown, body: unknown): string | null {
  try {
    parse(body);
    return null;
  } catch (error) {
    if (error instanceof EngineError && error.code === 'bad_request') return error.param;
    throw error;
  }
}

describe('parseChat', () => {
  it('fills in the defaults of a short request', () => {
    expect(parseChat({ model: 'm', messages: [user] })).toEqual({
      model: 'm',
      stream: false,
      includeUsage: false,
      maxTokens: null,
      sampling: { temperature: 0, topP: 1, seed: null, presencePenalty: 0, frequencyPenalty: 0 },
      stops: [],
      cacheSalt: '',
      messages: [{ role: 'user', text: 'hi', calls: [] }],
      tools: [],
      toolChoice: 'none',
      format: { kind: 'text' },
    });
  });

  it('accepts messages in all forms', () => {
    const { messages } = parseChat({
      model: 'm',
      messages: [
        { role: 'developer', content: 'rules' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'a' },
            { type: 'text', text: 'b' },
          ],
        },
        {
          role: 'assistant',
          content: null,
          tool_calls: [{ id: 'x', type: 'function', function: { name: 'add', arguments: '{}' } }],
        },
        { role: 'tool', tool_call_id: 'x', content: '3' },
      ],
    });
    expect(messages).toEqual([
      { role: 'system', text: 'rules', calls: [] },
      { role: 'user', text: 'ab', calls: [] },
      { role: 'assistant', text: '', calls: [{ name: 'add', arguments: '{}' }] },
      { role: 'tool', text: '3', calls: [] },
    ]);
  });

  it.each([
    [undefined, [add], 'auto'],
    ['auto', [add], 'auto'],
    ['none', [add], 'none'],
    ['required', [add], 'required'],
    [{ type: 'function', function: { name: 'add' } }, [add], { name: 'add' }],
    ['auto', undefined, 'none'],
  ])('reads tool_choice %j', (tool_choice, tools, expected) => {
    expect(parseChat({ model: 'm', messages: [user], tools, tool_choice }).toolChoice).toEqual(expected);
  });

  it('accepts null for every optional field, as some clients send it', () => {
    const names = ['stream', 'stream_options', 'temperature', 'top_p', 'seed', 'stop', 'max_tokens'];
    const more = ['n', 'logit_bias', 'tools', 'tool_choice', 'response_format', 'logprobs', 'audio'];
    const nulls = Object.fromEntries([...names, ...more].map((name) => [name, null]));
    expect(fault(parseChat, { model: 'm', messages: [user], ...nulls })).toBeNull();
  });

  it('ignores fields without effect', () => {
    const more = { user: 'u', store: true, metadata: {}, parallel_tool_calls: true, top_k: 3 };
    expect(fault(parseChat, { model: 'm', messages: [user], ...more })).toBeNull();
  });

  it('prefers max_completion_tokens, and accepts one stop string as a list', () => {
    const request = parseChat({ model: 'm', messages: [user], max_tokens: 5, max_completion_tokens: 7, stop: 'x' });
    expect(request).toMatchObject({ maxTokens: 7, stops: ['x'] });
  });

  it.each<[string, Record<string, unknown>]>([
    ['n', { n: 2 }],
    ['logprobs', { logprobs: true }],
    ['temperature', { temperature: 3 }],
    ['max_tokens', { max_tokens: 0 }],
    ['messages', { messages: [] }],
    ['messages', { messages: 'hi' }],
    ['messages[0].role', { messages: [{ role: 'function', content: '' }] }],
    ['messages[0].content[0].type', { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] }],
    ['tools[0].type', { tools: [{ type: 'web_search' }] }],
    ['tools[0].function.name', { tools: [{ type: 'function', function: { name: 'a b"' } }] }],
    ['tool_choice', { tool_choice: 'required' }],
    ['tool_choice', { tools: [add], tool_choice: { type: 'function', function: { name: 'x' } } }],
    ['logit_bias.5', { logit_bias: { 5: 1 } }],
    ['response_format.type', { response_format: { type: 'xml' } }],
    ['stop', { stop: Array.from({ length: 17 }, () => 'x') }],
    ['audio', { audio: {} }],
  ])('refuses a wrong %s', (field, wrong) => {
    expect(fault(parseChat, { model: 'm', messages: [user], ...wrong })).toBe(field);
  });

  it.each([null, 3, 'text', [], {}])('refuses the body %j', (body) => {
    expect(fault(parseChat, body)).not.toBeNull();
  });
});

/** One text, texts, token ids, lists of token ids: as sent, and as parsed. */
const TEXT_FORMS: [unknown, unknown[]][] = [
  ['a', ['a']],
  [
    ['a', 'b'],
    ['a', 'b'],
  ],
  [[1, 2], [[1, 2]]],
  [
    [[1], [2]],
    [[1], [2]],
  ],
];

describe('parseCompletion', () => {
  it.each(TEXT_FORMS)('accepts the prompt %j', (prompt, prompts) => {
    expect(parseCompletion({ model: 'm', prompt }).prompts).toEqual(prompts);
  });

  it.each([
    ['suffix', { suffix: 'end' }],
    ['best_of', { best_of: 2 }],
    ['logprobs', { logprobs: 1 }],
    ['prompt', { prompt: [] }],
    ['prompt[0]', { prompt: [-1] }],
  ])('refuses %s', (field, wrong) => {
    expect(fault(parseCompletion, { model: 'm', prompt: 'a', ...wrong })).toBe(field);
  });
});

describe('parseEmbedding', () => {
  it.each(TEXT_FORMS)('accepts the input %j', (input, inputs) => {
    expect(parseEmbedding({ model: 'm', input })).toMatchObject({ inputs, encoding: 'float' });
  });

  it.each([
    ['input', { input: '' }],
    ['input', { input: [] }],
    ['encoding_format', { encoding_format: 'hex' }],
    ['dimensions', { dimensions: 0 }],
  ])('refuses a wrong %s', (field, wrong) => {
    expect(fault(parseEmbedding, { model: 'm', input: 'a', ...wrong })).toBe(field);
  });
});
