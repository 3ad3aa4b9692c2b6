import { describe, expect, it } from 'vitest';
import { chatCompletion, chatDelta, embeddingList, errorBody, shorten } from './answer.ts';
import { EngineError } from './errors.ts';

const head = { id: 'chatcmpl-1', created: 5, model: 'm' };
const usage = { promptTokens: 3, completionTokens: 2, cachedTokens: 1 };

describe('chatCompletion', () => {
  it('builds a text answer', () => {
    const events = [
      { kind: 'text', text: 'a' },
      { kind: 'text', text: 'b' },
    ] as const;
    expect(chatCompletion(head, events, 'call_1', 'stop', usage)).toMatchObject({
      object: 'chat.completion',
      choices: [{ message: { content: 'ab' }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
    });
  });

  it('builds a tool call with null content', () => {
    const events = [
      { kind: 'call', name: 'add' },
      { kind: 'arguments', text: '{"a"' },
      { kind: 'arguments', text: ': 1}' },
    ] as const;
    expect(chatCompletion(head, events, 'call_1', 'tool_calls', usage)).toMatchObject({
      choices: [
        {
          message: {
            content: null,
            tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'add', arguments: '{"a": 1}' } }],
          },
        },
      ],
    });
  });
});

describe('chatDelta', () => {
  it('has id and name once, then only arguments', () => {
    expect(chatDelta({ kind: 'call', name: 'add' }, 'call_1')).toEqual({
      tool_calls: [{ index: 0, id: 'call_1', type: 'function', function: { name: 'add', arguments: '' } }],
    });
    expect(chatDelta({ kind: 'arguments', text: '{' }, 'call_1')).toEqual({
      tool_calls: [{ index: 0, function: { arguments: '{' } }],
    });
  });
});

describe('embeddingList', () => {
  it('writes base64 of little-endian floats', () => {
    const list = embeddingList('m', [Float32Array.of(1, -2)], 'base64', 4);
    expect(list).toMatchObject({ data: [{ embedding: 'AACAPwAAAMA=' }], usage: { total_tokens: 4 } });
  });
});

describe('shorten', () => {
  it('truncates and normalizes', () => {
    expect([...shorten(Float32Array.of(3, 4, 12), 2)].map((x) => x.toFixed(3))).toEqual(['0.600', '0.800']);
  });
  it('keeps a zero vector', () => {
    expect([...shorten(Float32Array.of(0, 0, 1), 2)]).toEqual([0, 0]);
  });
});

describe('errorBody', () => {
  it('reports the client’s mistake', () => {
    const error = new EngineError('bad_request', 'n: must be 1', { param: 'n' });
    expect(errorBody(error)).toEqual({
      status: 400,
      body: { error: { message: 'n: must be 1', type: 'invalid_request_error', param: 'n', code: 'bad_request' } },
    });
  });
  it('hides internal causes', () => {
    const error = new EngineError('internal', 'failed', { cause: new Error('secret path') });
    expect(JSON.stringify(errorBody(error))).not.toContain('secret');
  });
});
