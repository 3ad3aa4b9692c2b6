import { describe, expect, it } from 'vitest';
import { readChatRequest } from './read-request.ts';

const user = (content: unknown) => ({ role: 'user', content });
const ask = (more: object = {}) => ({ model: 'm', messages: [user('hello')], ...more });
const assistant = (more: object) => ({ messages: [user('a'), { role: 'assistant', ...more }] });
const call = (json: string) => ({ id: 'c', function: { name: 'f', arguments: json } });

describe('readChatRequest: refusals that name the field', () => {
  it.each<[string, object]>([
    ['n', { n: 2 }],
    ['logprobs', { logprobs: true }],
    ['audio', { audio: { voice: 'x' } }],
    ['functions', { functions: [] }],
    ['guided_json', { guided_json: {} }],
    ['structured_outputs', { structured_outputs: { choice: ['a'] } }],
    ['response_format.type', { response_format: { type: 'grammar' } }],
    ['tools.0.custom', { tools: [{ type: 'custom', custom: { name: 'x' } }] }],
    ['tool_choice.type', { tool_choice: { type: 'allowed_tools' } }],
    ['max_tokens', { max_tokens: 0 }],
    ['stop.0', { stop: [1] }],
    ['messages', { messages: [{ role: 'system', content: 'alone' }] }],
    ['messages.0.role', { messages: [{ role: 'function', content: 'x' }] }],
    ['messages.0.content.0.type', { messages: [user([{ type: 'input_audio' }])] }],
    [
      'messages.0.content.0.image_url',
      { messages: [user([{ type: 'image_url', image_url: 'data:image/svg+xml;base64,AA==' }])] },
    ],
    ['messages.1.function_call', assistant({ function_call: { name: 'f' } })],
    ['messages.1.tool_calls.0.function.arguments', assistant({ tool_calls: [call('[1]')] })],
    ['messages.0.tool_call_id', { messages: [{ role: 'tool', content: 'x' }] }],
  ])('%s', (param, more) => {
    const read = readChatRequest(ask(more));
    expect(read.ok ? read.value : read.refusal).toMatchObject({ status: 400, param });
  });

  it.each([
    { n: 1, logprobs: false, seed: 1, logit_bias: {}, prediction: {}, guided_whitespace_pattern: '' },
    { n: null, stop: null, tools: null, tool_choice: null, response_format: { type: 'text' } },
  ])('accepts what changes nothing or is a hint: %j', (more) => {
    expect(readChatRequest(ask(more))).toMatchObject({ ok: true });
  });
});

describe('readChatRequest', () => {
  it('reads the token limit that newer clients set', () => {
    const limitOf = (more: object) => {
      const read = readChatRequest(ask(more));
      return read.ok ? read.value.maxTokens : read.refusal;
    };
    expect(limitOf({ max_completion_tokens: 5, max_tokens: 9 })).toBe(5);
    expect(limitOf({ max_tokens: 9 })).toBe(9);
    expect(limitOf({})).toBeUndefined();
  });
});
