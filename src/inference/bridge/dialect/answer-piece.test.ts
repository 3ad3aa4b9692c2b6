import { describe, expect, it } from 'vitest';
import { FairShare } from '../../../base/fairness/fair-share.ts';
import { AnswerText } from '../content/answer-text.ts';
import { CONTENT_MEMORY } from '../content/content.ts';
import { AnswerNotes } from '../record/answer-notes.ts';
import { AnswerCounter } from '../usage.ts';
import { MessageGrammar } from './anthropic/answer-grammar.ts';
import { MessagesAnswerReader } from './anthropic/read-answer.ts';
import { openaiGrammar } from './openai/answer-grammar.ts';
import { OpenaiAnswerReader } from './openai/read-answer.ts';

const CONTEXT = { stop: [], reasoning: true };
const chunk = (delta: object, finish_reason: string | null = null) => ({
  choices: [{ index: 0, delta, finish_reason }],
});
const start = (index: number, content_block: object) => ({ type: 'content_block_start', index, content_block });
const more = (index: number, delta: object) => ({ type: 'content_block_delta', index, delta });

const STREAMS = {
  openai: [
    chunk({ content: [{ type: 'thinking', thinking: [{ text: 'hm' }] }] }),
    chunk({ content: [{ type: 'text', text: 'a' }] }),
    chunk({ content: 'b' }),
    chunk({ tool_calls: [{ id: 'x', function: { name: 'f', arguments: { a: 1 } } }] }),
    chunk({}, 'tool_calls'),
  ],
  anthropic: [
    { type: 'message_start', message: {} },
    start(0, { type: 'thinking', thinking: '' }),
    more(0, { type: 'thinking_delta', thinking: 'hm' }),
    start(1, { type: 'text', text: 'a' }),
    more(1, { type: 'text_delta', text: 'b' }),
    start(2, { type: 'server_tool_use', id: 's', name: 'search', input: {} }),
    more(2, { type: 'input_json_delta', partial_json: '{"q":1}' }),
    start(3, { type: 'tool_use', id: 'x', name: 'f', input: {} }),
    more(3, { type: 'input_json_delta', partial_json: '{"a":1}' }),
    { type: 'message_delta', delta: { stop_reason: 'tool_use' } },
  ],
};

describe.each([
  ['openai', new OpenaiAnswerReader(CONTEXT, 'id'), 4],
  ['anthropic', new MessagesAnswerReader(CONTEXT, 'id'), 6],
] as const)('an answer of %s', (api, reader, chunks) => {
  it('is counted, noted and translated from the same pieces', () => {
    const notes = new AnswerNotes(new AnswerText('full', new FairShare(CONTENT_MEMORY), 's'));
    const counter = new AnswerCounter(notes);
    const events = STREAMS[api].flatMap((event) => reader.readEvent(JSON.stringify(event), (one) => counter.add(one)));
    const all = [...events, ...reader.end()].map((event) => ('text' in event ? event.text : event.type));
    expect(all).toEqual(['start', 'hm', 'a', 'b', 'tool-start', '{"a":1}', 'tool-end', 'stop']);
    const toolCalls = [{ name: 'f', arguments: '{"a":1}' }];
    expect(notes.content(true)?.choices).toEqual([{ text: 'ab', reasoning: 'hm', toolCalls }]);
    expect([notes.tools, notes.toolCalls]).toEqual([['f'], 1]);
    expect([counter.chunks, counter.finished, counter.failed]).toEqual([chunks, true, false]);
  });
});

describe('AnswerCounter', () => {
  it.each([
    [{ message: 'x' }, true],
    ['x', true],
    ['', false],
    [false, false],
    [{}, true],
  ])('an error %j of a stream that passes: %j', (error, failed) => {
    const counter = new AnswerCounter();
    counter.add(openaiGrammar.document({ error }));
    expect(counter.failed).toBe(failed);
  });

  it.each([{ message: 'x' }, 5, '', null, undefined])('an event of type error with the error %j', (error) => {
    const counter = new AnswerCounter();
    counter.add(new MessageGrammar().parsedEvent({ type: 'error', error }));
    expect(counter.failed).toBe(true);
  });

  it('ignores the output count of a message’s first event, which does not include its text', () => {
    const grammar = new MessageGrammar();
    const counter = new AnswerCounter();
    counter.add(
      grammar.parsedEvent({ type: 'message_start', message: { usage: { input_tokens: 3, output_tokens: 9 } } }),
    );
    expect(counter.counts(1)).toMatchObject({ promptTokens: 3, completionTokens: 0, estimated: true });
    counter.add(grammar.parsedEvent({ type: 'message_delta', usage: { output_tokens: 9 } }));
    expect(counter.counts(1)).toMatchObject({ promptTokens: 3, completionTokens: 9, estimated: false });
  });
});
