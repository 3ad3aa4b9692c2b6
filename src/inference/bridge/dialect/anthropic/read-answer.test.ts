import { expect, it } from 'vitest';
import { MessagesAnswerReader } from './read-answer.ts';

const cached = (read: number) => ({ cache_read_input_tokens: read, cache_creation_input_tokens: 2 });

it.each([
  ['adds them to the others', { input_tokens: 52 }],
  ['leaves them out', { input_tokens: 10 }],
  ['says nothing of the input', {}],
])('cache hits stay counted, and all tokens of the answer, if its end %s', (_how, input) => {
  const reader = new MessagesAnswerReader({ stop: [], reasoning: true }, 'id');
  const start = { input_tokens: 10, ...cached(40), output_tokens: 1 };
  const none = { cache_read_input_tokens: 0, cache_creation_input_tokens: 0 };
  const events = [
    { type: 'message_start', message: { usage: start } },
    { type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { ...input, ...none, output_tokens: 30 } },
    { type: 'message_stop' },
  ].flatMap((event) => reader.readEvent(JSON.stringify(event)));
  expect(events.findLast(({ type }) => type === 'usage')).toEqual({
    type: 'usage',
    usage: { inputTokens: 52, cachedTokens: 40, outputTokens: 30 },
  });
});
