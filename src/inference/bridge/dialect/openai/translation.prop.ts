import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  answerOptions,
  maybe,
  messagesWith,
  object,
  tool,
  words,
} from '../../../../../test/support/conversation-arbitraries.ts';
import { readOpenaiMessages } from '../../../../../test/support/conversations.ts';
import type { JsonObject } from '../../json-body.ts';
import type { AnswerEvent, ConversationRequest } from '../model.ts';
import { OpenaiAnswerReader } from './read-answer.ts';
import { readChatRequest } from './read-request.ts';
import { ChatAnswerWriter } from './write-answer.ts';
import { writeRequest } from './write-request.ts';

const conversation: fc.Arbitrary<ConversationRequest> = fc.record({
  model: words,
  stream: fc.boolean(),
  system: fc.string({ unit: 'grapheme', maxLength: 12 }),
  messages: messagesWith(fc.boolean()),
  tools: fc.array(tool, { maxLength: 2 }),
  toolChoice: maybe(
    fc.oneof(
      fc.record({ type: fc.constantFrom('auto' as const, 'any' as const, 'none' as const) }),
      fc.record({ type: fc.constant('tool' as const), name: words }),
    ),
  ),
  parallelToolCalls: fc.boolean(),
  maxTokens: maybe(fc.integer({ min: 1 })),
  temperature: maybe(fc.constantFrom(0, 0.5, 2)),
  topP: maybe(fc.constantFrom(0.5, 1)),
  topK: maybe(fc.nat()),
  stop: fc.array(words, { maxLength: 2 }),
  format: maybe(fc.oneof(object, fc.constant('json' as const))),
});

const plain = (value: unknown): unknown => JSON.parse(JSON.stringify({ value })).value;

describe('readChatRequest', () => {
  it('reads what was written', () => {
    fc.assert(
      fc.property(conversation, (request) => {
        const body = JSON.parse(JSON.stringify(writeRequest(request))) as JsonObject;
        const read = readChatRequest(body);
        if (!read.ok) throw new Error(read.refusal.message);
        const { messages, ...rest } = read.value;
        // Tool results have no error flag here; the other reader takes it out of the text.
        const said = messages.map(({ role, parts }) => [role, parts.map(({ type }) => type)]);
        expect(said).toEqual(
          readOpenaiMessages(body).messages.map(({ role, parts }) => [role, parts.map(({ type }) => type)]),
        );
        const hasTools = request.tools.length > 0;
        const { messages: _, toolChoice, parallelToolCalls, ...given } = request;
        expect(plain(rest)).toEqual(
          plain({
            ...given,
            toolChoice: hasTools ? toolChoice : undefined,
            parallelToolCalls: hasTools ? parallelToolCalls : true,
          }),
        );
      }),
    );
  });

  it('reads or refuses any body, and never throws', () => {
    const value = fc.oneof(fc.jsonValue({ maxDepth: 3 }), object);
    const names = ['messages', 'tools', 'tool_choice', 'stop', 'response_format', 'max_tokens', 'n', 'stream'];
    const message = fc.dictionary(
      fc.constantFrom('role', 'content', 'tool_calls', 'tool_call_id'),
      fc.oneof(value, fc.constantFrom('user', 'assistant', 'tool', 'system')),
    );
    const hostile = fc.record({ messages: fc.array(message, { minLength: 1 }) });
    const any = fc.dictionary(fc.constantFrom(...names), value);
    fc.assert(
      fc.property(fc.oneof(any, hostile), (body) => {
        const read = readChatRequest(body as JsonObject);
        if (!read.ok) expect(read.refusal.status).toBe(400);
      }),
    );
  });
});

describe('ChatAnswerWriter', () => {
  const piece = fc.oneof(
    fc.record({ type: fc.constant('text' as const), text: words }),
    fc.record({ type: fc.constant('reasoning' as const), text: words }),
    fc.record({ type: fc.constant('call' as const), name: words, input: object }),
  );

  it('writes answers that are read back unchanged, streamed and whole', () => {
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 4 }), fc.boolean(), (pieces, cached) => {
        const events: AnswerEvent[] = [{ type: 'start' }];
        for (const [i, one] of pieces.entries()) {
          if (one.type !== 'call') events.push(one);
          else {
            events.push({ type: 'tool-start', id: `call_${i}`, name: one.name });
            events.push({ type: 'tool-arguments', text: JSON.stringify(one.input) });
            events.push({ type: 'tool-end' });
          }
        }
        const usage = { inputTokens: 5, outputTokens: 3, cachedTokens: 2 };
        events.push({ type: 'usage', usage });
        const hasCalls = pieces.some(({ type }) => type === 'call');
        events.push({ type: 'stop', reason: hasCalls ? 'tool-calls' : 'end', sequence: null });
        const context = { stop: [], reasoning: true, usageChunk: true };
        const [streamed, whole] = [true, false].map((stream) => {
          const writer = new ChatAnswerWriter(answerOptions(stream, { context, showCacheHits: cached }));
          const text = events.map((event) => writer.write(event)).join('');
          expect(writer.done).toBe(true);
          const reader = new OpenaiAnswerReader(context, 'x');
          if (!stream) return reader.readDocument(text);
          const data = text.split('\n\n').filter((event) => event !== '');
          return data.flatMap((event) => [...reader.readEvent(event.slice('data: '.length))]);
        });
        const texts = (all: readonly AnswerEvent[] = []) => ({
          text: all.map((one) => (one.type === 'text' ? one.text : '')).join(''),
          reasoning: all.map((one) => (one.type === 'reasoning' ? one.text : '')).join(''),
          rest: all.filter(({ type }) => type !== 'text' && type !== 'reasoning'),
        });
        const expected = texts(events);
        const shown = { ...usage, cachedTokens: cached ? 2 : 0 };
        const rest = expected.rest.map((one) => (one.type === 'usage' ? { ...one, usage: shown } : one));
        expect(texts(streamed)).toEqual({ ...expected, rest });
        expect(texts(whole)).toEqual({ ...expected, rest });
      }),
    );
  });
});
