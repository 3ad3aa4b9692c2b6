import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ScriptedAnswer, sseOf, streamedAnswer } from '../../../../../test/support/completions.ts';
import {
  answerOptions,
  maybe,
  messagesWith,
  object,
  tool,
  words,
} from '../../../../../test/support/conversation-arbitraries.ts';
import {
  joinResponsesStream,
  responsesEvents,
  writeResponsesRequest,
} from '../../../../../test/support/conversations.ts';
import { FakeClock } from '../../../../base/clock.ts';
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import { eventData, SseSplitter } from '../../sse.ts';
import type { AnswerOptions, KeptContext } from '../dialect.ts';
import type { AnswerContext, AnswerEvent, ConversationRequest } from '../model.ts';
import { OpenaiAnswerReader } from '../openai/read-answer.ts';
import { readRequest } from './read-request.ts';
import { ResponsesWriter } from './write-answer.ts';

const NOTHING: KeptContext = { conversation: [], items: [], characters: 0 };

/** A function, a tool that takes text, a shell, or a tool that was not offered. */
const call = fc.record({
  id: fc.constantFrom('a', 'b', 'c'),
  name: fc.constantFrom('f', 'ns__g', 'c', 'local_shell', 'invented'),
  arguments: fc
    .oneof(object, fc.record({ input: words }), fc.record({ command: fc.array(words, { maxLength: 2 }) }))
    .map((value) => JSON.stringify(value)),
});
const answer: fc.Arbitrary<ScriptedAnswer> = fc.record(
  {
    reasoning: words,
    text: words,
    calls: fc.array(call, { maxLength: 3 }),
    finish: fc.constantFrom('stop', 'tool_calls', 'length', 'content_filter'),
    usage: fc.constantFrom(
      null,
      { prompt_tokens: 3, completion_tokens: 4 },
      { prompt_tokens: -1, completion_tokens: 'lies' },
    ),
  },
  { requiredKeys: [] },
);
const context = fc.record({ summary: fc.boolean(), encrypted: fc.boolean() }).map(
  (how): AnswerContext => ({
    stop: [],
    reasoning: true,
    responses: {
      ...how,
      repeated: { tools: [] },
      tools: [
        { type: 'function', upstreamName: 'f', name: 'f' },
        { type: 'function', upstreamName: 'ns__g', name: 'g', namespace: 'ns' },
        { type: 'custom', upstreamName: 'c', name: 'c' },
        { type: 'local_shell', upstreamName: 'local_shell', name: 'local_shell' },
      ],
    },
  }),
);
const options = (stream: boolean, context: AnswerContext): AnswerOptions =>
  answerOptions(stream, { name: 'responses', clock: new FakeClock(), context });

function readStream(bytes: Buffer, size: number): AnswerEvent[] {
  const reader = new OpenaiAnswerReader({ stop: [], reasoning: true }, 'x');
  const splitter = new SseSplitter(1_000_000);
  const events: AnswerEvent[] = [];
  for (let i = 0; i < bytes.length; i += size) {
    for (const piece of splitter.push(bytes.subarray(i, i + size))) {
      const data = eventData(piece.bytes);
      if (data !== undefined) events.push(...reader.readEvent(data));
    }
  }
  return [...events, ...reader.end()];
}

function write(events: readonly AnswerEvent[], stream: boolean, how: AnswerContext): string {
  const writer = new ResponsesWriter(options(stream, how));
  const text = events.map((event) => writer.write(event)).join('');
  expect(writer.done).toBe(true);
  return text;
}

describe('Responses: answers', () => {
  it('an assembled stream equals the plain answer, for any cut of the upstream’s bytes', () => {
    fc.assert(
      fc.property(answer, context, fc.integer({ min: 1, max: 40 }), (scripted, how, size) => {
        const bytes = Buffer.from(sseOf(streamedAnswer(scripted, 3)));
        const stream = write(readStream(bytes, size), true, how);
        expect(stream).toBe(write(readStream(bytes, bytes.length), true, how));
        const whole = JSON.parse(write(readStream(bytes, size), false, how));
        expect(joinResponsesStream(stream)).toEqual(whole);
      }),
    );
  });

  it('keep reasoning, text and calls when sent back as input', () => {
    fc.assert(
      fc.property(answer, context, (scripted, how) => {
        const events = readStream(Buffer.from(sseOf(streamedAnswer(scripted, 3))), 1000);
        const { output } = JSON.parse(write(events, false, how)) as { output: JsonObject[] };
        const read = readRequest({ input: [{ role: 'user', content: 'x' }, ...output] }, NOTHING);
        if (!read.ok) throw new Error(read.refusal.message);
        const parts = read.value.conversation.messages[1]?.parts ?? [];
        const textsOf = (type: string) =>
          parts.flatMap((part) => (part.type === type && 'text' in part ? [part.text] : []));
        expect(textsOf('reasoning').join('')).toBe(scripted.reasoning ?? '');
        expect(textsOf('text').join('')).toBe(scripted.text ?? '');
        const calls = parts.filter((part) => part.type === 'tool-call');
        expect(calls.map(({ name }) => name)).toEqual(scripted.calls?.map(({ name }) => name) ?? []);
        const plain = (scripted.calls ?? []).filter(({ name }) => /^(?:f|ns__g)$/.test(name));
        expect(calls.filter(({ name }) => /^(?:f|ns__g)$/.test(name)).map(({ input }) => input)).toEqual(
          plain.map((one) => JSON.parse(one.arguments)),
        );
      }),
    );
  });

  it('a failure at any point leaves numbered events and no completion', () => {
    fc.assert(
      fc.property(answer, context, fc.nat(30), (scripted, how, at) => {
        const events = readStream(Buffer.from(sseOf(streamedAnswer(scripted, 3))), 1000);
        const writer = new ResponsesWriter(options(true, how));
        const begun = events
          .filter(({ type }) => type !== 'stop')
          .slice(0, at)
          .map((event) => writer.write(event))
          .join('');
        const failed = writer.fail({ status: 502, code: 'upstream_died', message: 'm' });
        const types = responsesEvents(begun + failed).map(({ type }) => type);
        expect(types.slice(-2)).toEqual(['error', 'response.failed']);
        expect(types).not.toContain('response.completed');
        expect(writer.done).toBe(false);
      }),
    );
  });
});

const messages = messagesWith(fc.constant(false));
const conversation: fc.Arbitrary<ConversationRequest> = fc
  .record({
    model: words,
    stream: fc.boolean(),
    system: fc.string({ unit: 'grapheme', maxLength: 12 }),
    messages,
    tools: fc.uniqueArray(tool, { maxLength: 2, selector: ({ name }) => name }),
    choice: fc.constantFrom('auto', 'any', 'none', 'tool', undefined),
    parallelToolCalls: fc.boolean(),
    maxTokens: maybe(fc.integer({ min: 1 })),
    temperature: maybe(fc.constantFrom(0, 0.5, 1)),
    topP: maybe(fc.constantFrom(0.5, 1)),
    topK: fc.constant(undefined),
    stop: fc.constant([]),
    format: maybe(fc.oneof(object, fc.constant('json' as const))),
    strictFormat: maybe(fc.boolean()),
    effort: maybe(fc.constantFrom('low', 'high')),
  })
  .map(({ choice, strictFormat, ...rest }) => {
    const [first] = rest.tools;
    const named = first && ({ type: 'tool', name: first.name } as const);
    return {
      ...rest,
      toolChoice: choice === 'tool' ? named : choice && { type: choice },
      ...(isJsonObject(rest.format) ? { strictFormat } : {}),
    };
  });

describe('Responses: requests', () => {
  it('are read as they were written', () => {
    fc.assert(
      fc.property(conversation, (request) => {
        const read = readRequest(JSON.parse(JSON.stringify(writeResponsesRequest(request))), NOTHING);
        if (!read.ok) throw new Error(read.refusal.message);
        expect(JSON.parse(JSON.stringify(read.value.conversation))).toEqual(JSON.parse(JSON.stringify(request)));
      }),
    );
  });

  it('cut in two and continued, form the same conversation', () => {
    fc.assert(
      fc.property(conversation, fc.nat(12), (request, at) => {
        const body = writeResponsesRequest(request);
        const input = body['input'] as JsonObject[];
        const whole = readRequest({ ...body, input }, NOTHING);
        const kept = { ...NOTHING, conversation: input.slice(0, at).map((i) => JSON.stringify(i)) };
        const cut = readRequest({ ...body, input: input.slice(at) }, kept);
        if (!whole.ok || !cut.ok) throw new Error('refused');
        expect(cut.value.conversation).toEqual(whole.value.conversation);
        expect(cut.value.keep?.items).toHaveLength(Math.max(0, input.length - at));
      }),
    );
  });

  it('of any shape are read or refused', () => {
    const some: fc.Arbitrary<unknown> = fc.oneof(
      fc.constantFrom<unknown>(null, 0, '', 'x', true, [], {}),
      fc.constantFrom<unknown>({ type: 'input_text' }, [{ type: 'function', name: 'f' }]),
    );
    const item = fc.record(
      {
        type: fc.constantFrom<unknown>(
          ...['message', 'reasoning', 'function_call', 'custom_tool_call', 'local_shell_call'],
          ...['function_call_output', 'local_shell_call_output', 'item_reference', null, 'x'],
        ),
        role: fc.constantFrom<unknown>('user', 'assistant', 'system', 'developer', null, 5),
        ...Object.fromEntries(
          'id call_id name namespace content summary arguments input output action status'
            .split(' ')
            .map((name) => [name, some]),
        ),
      },
      { requiredKeys: [] },
    );
    const body = fc.record(
      {
        input: fc.oneof(fc.array(fc.oneof(item, some), { maxLength: 3 }), some),
        ...Object.fromEntries(
          'instructions tools tool_choice text reasoning store include previous_response_id max_output_tokens'
            .split(' ')
            .map((name) => [name, some]),
        ),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(body, (value) => {
        const read = readRequest(value as JsonObject, NOTHING);
        expect(read.ok || read.refusal.status === 400).toBe(true);
      }),
    );
  });
});
