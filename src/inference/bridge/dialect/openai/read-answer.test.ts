import { describe, expect, it, vi } from 'vitest';
import type { AnswerEvent } from '../model.ts';
import { TOOL_CALLS_MAX } from '../tool-calls.ts';
import { OpenaiAnswerReader } from './read-answer.ts';

const CONTEXT = { stop: ['END'], reasoning: true };
const ID = 'beef';

function read(deltas: readonly unknown[], end: object = { finish_reason: 'stop' }): AnswerEvent[] {
  const reader = new OpenaiAnswerReader(CONTEXT, ID);
  const chunks = [...deltas.map((delta) => ({ delta })), { delta: {}, ...end }];
  const events = chunks.flatMap((choice) => reader.readEvent(JSON.stringify({ choices: [{ index: 0, ...choice }] })));
  return [...events, ...reader.end()];
}
const calls = (...tool_calls: unknown[]) => ({ tool_calls });
const call = (index: number | undefined, id: string | undefined, name?: string, text?: unknown) =>
  calls({ index, id, type: 'function', function: { name, arguments: text } });

function callsOf(events: readonly AnswerEvent[]): string[] {
  const out: string[] = [];
  for (const event of events) {
    if (event.type === 'tool-start') out.push(`${event.id} ${event.name} `);
    if (event.type === 'tool-arguments') out.push((out.pop() ?? '') + event.text);
  }
  return out;
}
const stopOf = (events: readonly AnswerEvent[]) => events.at(-1);

describe('OpenaiAnswerReader: tool calls', () => {
  const ways: [string, readonly unknown[]][] = [
    [
      'as OpenAI sends them',
      [
        call(0, 'a', 'f', ''),
        call(0, undefined, undefined, '{"x"'),
        call(0, undefined, undefined, ':1}'),
        call(1, 'b', 'g', ''),
        call(1, undefined, undefined, '{}'),
      ],
    ],
    ['all with the number 0', [call(0, 'a', 'f', '{"x":1}'), call(0, 'b', 'g', '{}')]],
    ['without numbers', [call(undefined, 'a', 'f', '{"x":1}'), call(undefined, 'b', 'g', '{}')]],
    [
      'in one delta',
      [
        calls(
          { index: 0, id: 'a', function: { name: 'f', arguments: '{"x":1}' } },
          { index: 1, id: 'b', function: { name: 'g', arguments: '{}' } },
        ),
      ],
    ],
    ['with the id and name in each', [call(0, 'a', 'f', '{"x'), call(0, 'a', 'f', '":1}'), call(1, 'b', 'g', '{}')]],
    ['with an object as arguments, and none', [call(0, 'a', 'f', { x: 1 }), call(1, 'b', 'g')]],
    ['with null as arguments', [call(0, 'a', 'f', '{"x":1}'), call(1, 'b', 'g', 'null')]],
    [
      'with the arguments before the name',
      [call(0, 'a', undefined, '{"x"'), call(0, undefined, 'f', ':1}'), call(1, 'b', 'g', '{}')],
    ],
  ];
  it.each(ways)('%s', (_, deltas) => {
    const events = read(deltas);
    expect(callsOf(events)).toEqual(['a f {"x":1}', 'b g {}']);
    expect(stopOf(events)).toMatchObject({ reason: 'tool-calls' });
  });

  it('all with index 0 do not get the arguments of the next one', () => {
    const events = read([call(0, 'a', 'list', ''), call(0, 'b', 'delete', '{"path":"x"}')]);
    expect(callsOf(events)).toEqual(['a list {}', 'b delete {"path":"x"}']);
  });

  it('get unique ids if theirs are missing or repeated', () => {
    const events = read([call(0, 'a', 'f', '{}'), call(1, 'a', 'f', '{}'), call(2, '', 'f', '{}')]);
    expect(callsOf(events)).toEqual(['a f {}', 'call_beef_2 f {}', 'call_beef_3 f {}']);
  });

  it('are read in linear time, even if only white space arrives', () => {
    const trimStart = vi.spyOn(String.prototype, 'trimStart');
    const blanks = Array.from({ length: 1000 }, () => call(0, 'a', 'f', ' '));
    const events = read([...blanks, call(0, undefined, undefined, ' {"x":1}')]);
    const looked = trimStart.mock.contexts.reduce<number>((sum, text) => sum + `${text}`.length, 0);
    trimStart.mockRestore();
    expect(callsOf(events)).toEqual(['a f {"x":1}']);
    expect(looked).toBeLessThan(2000);
  });

  it('may be cut off by the token limit, and by nothing else', () => {
    const deltas = [call(0, 'a', 'f', '{"x":')];
    const events = read(deltas, { finish_reason: 'length' });
    expect(callsOf(events)).toEqual(['a f {"x":']);
    expect(stopOf(events)).toMatchObject({ reason: 'length' });
    expect(() => read(deltas)).toThrow('not a JSON object');
    expect(() => read([...deltas, call(1, 'b', 'g', '{}')], { finish_reason: 'length' })).toThrow();
  });

  it.each([
    ['a list', [call(0, 'a', 'f', '[1]')]],
    ['no name', [call(0, 'a', undefined, '{}')]],
    ['a part after its end', [call(0, 'a', 'f', '{}'), call(1, 'b', 'g', '{}'), call(0, undefined, undefined, ' ')]],
    ['a part after a text', [call(0, 'a', 'f', '{'), { content: 'x' }]],
    ['too many', Array.from({ length: TOOL_CALLS_MAX + 1 }, (_, i) => call(i, `${i}`, 'f', '{}'))],
    ['a long name', [call(0, 'a', 'f'.repeat(1000), '{}')]],
  ])('%s is an upstream error', (_, deltas) => {
    expect(() => read(deltas)).toThrow(expect.objectContaining({ code: 'upstream_protocol' }));
  });
});

describe('OpenaiAnswerReader: texts', () => {
  const textOf = (events: readonly AnswerEvent[]) =>
    events.map((event) => (event.type === 'text' ? event.text : '')).join('');

  it('joins surrogate halves, and replaces one that stays alone', () => {
    expect(read([{ content: 'a\ud83d' }, { content: '\ude42b' }])).toContainEqual({
      type: 'text',
      text: '\ud83d\ude42b',
    });
    expect(textOf(read([{ content: 'a\ud83d' }]))).toBe('a\ufffd');
    const args = read([call(0, 'a', 'f', '{"x":"\ud83d'), call(0, 'a', undefined, '\ude42"}')]);
    expect(callsOf(args)).toEqual(['a f {"x":"🙂"}']);
  });

  it.each([
    ['reasoning_content', { reasoning_content: 'hm' }],
    ['reasoning', { reasoning: 'hm' }],
    ['parts of Mistral', { content: [{ type: 'thinking', thinking: [{ text: 'hm' }] }] }],
  ])('reads reasoning from %s', (_, delta) => {
    expect(read([delta])).toContainEqual({ type: 'reasoning', text: 'hm' });
  });

  it.each([
    [{ finish_reason: 'stop' }, { reason: 'end', sequence: null }],
    [{ finish_reason: 'eos' }, { reason: 'end', sequence: null }],
    [
      { finish_reason: 'stop', stop_reason: 'END' },
      { reason: 'stop-sequence', sequence: 'END' },
    ],
    [
      { finish_reason: 'stop', matched_stop: 'END' },
      { reason: 'stop-sequence', sequence: 'END' },
    ],
    [
      { finish_reason: 'stop', stop_reason: 'other' },
      { reason: 'end', sequence: null },
    ],
    [
      { finish_reason: 'stop', stop_reason: 128_009 },
      { reason: 'end', sequence: null },
    ],
    [{ finish_reason: 'length' }, { reason: 'length', sequence: null }],
    [{ finish_reason: 'content_filter' }, { reason: 'refusal', sequence: null }],
    [{ finish_reason: 'tool_calls' }, { reason: 'end', sequence: null }],
  ])('%j stops with %j', (end, expected) => {
    expect(stopOf(read([{ content: 'x' }], end))).toEqual({ type: 'stop', ...expected });
  });

  it('reads a refusal as text', () => {
    const events = read([{ refusal: 'no' }]);
    expect(textOf(events)).toBe('no');
    expect(stopOf(events)).toMatchObject({ reason: 'refusal' });
  });

  it('accepts only counts as usage', () => {
    const reader = new OpenaiAnswerReader(CONTEXT, ID);
    const usage = (value: unknown) => reader.readEvent(JSON.stringify({ choices: [], usage: value }));
    usage({ prompt_tokens: 5, completion_tokens: 6, prompt_tokens_details: { cached_tokens: 9 } });
    for (const lie of [{ prompt_tokens: -1, completion_tokens: 2 }, { prompt_tokens: 1e99 }, 7]) {
      usage(lie);
    }
    reader.readEvent(JSON.stringify({ choices: [{ delta: {}, finish_reason: 'stop' }] }));
    expect(reader.end()[0]).toEqual({ type: 'usage', usage: { inputTokens: 5, outputTokens: 6, cachedTokens: 5 } });
  });

  it('ignores an empty finish reason', () => {
    const incomplete = () => read([{ content: 'hel' }], { finish_reason: '' });
    expect(incomplete).toThrow(expect.objectContaining({ code: 'upstream_died' }));
  });

  it('emits nothing after an error', () => {
    const reader = new OpenaiAnswerReader(CONTEXT, ID);
    expect(reader.readEvent('{"error":{"message":"boom"}}')).toEqual([{ type: 'error', message: 'boom' }]);
    expect(reader.readEvent('{"choices":[{"delta":{"content":"x"}}]}')).toEqual([]);
    expect(reader.end()).toEqual([]);
  });
});
