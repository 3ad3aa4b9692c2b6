import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ScriptedAnswer, sseOf, streamedAnswer, wholeAnswer } from '../../../../../test/support/completions.ts';
import {
  answerOptions,
  maybe,
  messagesWith,
  object,
  tool,
  words,
} from '../../../../../test/support/conversation-arbitraries.ts';
import {
  joinAnthropicStream,
  readOpenaiMessages,
  writeAnthropicRequest,
} from '../../../../../test/support/conversations.ts';
import {
  MESSAGE_USAGE,
  messageEvents,
  sseOf as messagesSse,
  wholeMessage,
} from '../../../../../test/support/messages.ts';
import { BridgeError } from '../../errors.ts';
import { eventData, SseSplitter } from '../../sse.ts';
import type { AnswerOptions, AnswerReader } from '../dialect.ts';
import type { AnswerEvent, ConversationRequest, Message, Part } from '../model.ts';
import { OpenaiAnswerReader } from '../openai/read-answer.ts';
import { TEXT_GAP, writeRequest } from '../openai/write-request.ts';
import { mergeNeighbors } from '../read-values.ts';
import { MessagesAnswerReader } from './read-answer.ts';
import { readRequest } from './read-request.ts';
import { AnthropicMessageWriter, AnthropicStreamWriter } from './write-answer.ts';
import { writeMessagesRequest } from './write-request.ts';

const call = fc.record({
  id: fc.constantFrom('a', 'b', 'c'),
  name: fc.constantFrom('f', 'g'),
  arguments: object.map((value) => JSON.stringify(value)),
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
const context = { stop: ['END'], reasoning: true };
const options = (stream: boolean): AnswerOptions => answerOptions(stream, { context });

function readStream(
  pieces: readonly Buffer[],
  reader: AnswerReader = new OpenaiAnswerReader(context, 'x'),
): AnswerEvent[] {
  const splitter = new SseSplitter(1_000_000);
  const events: AnswerEvent[] = [];
  for (const piece of pieces) {
    for (const { bytes } of splitter.push(piece)) {
      const data = eventData(bytes);
      if (data !== undefined) events.push(...reader.readEvent(data));
    }
  }
  return [...events, ...reader.end()];
}

function joined(events: readonly AnswerEvent[]): AnswerEvent[] {
  const out: AnswerEvent[] = [];
  for (const event of events) {
    const last = out.at(-1);
    if ('text' in event && last?.type === event.type) {
      out[out.length - 1] = { ...last, text: last.text + event.text };
    } else out.push(event);
  }
  return out;
}

/** Throws unless the events are in the order that `AnswerEvent` promises. */
function expectOrder(events: readonly AnswerEvent[]): void {
  const letters: Record<AnswerEvent['type'], string> = {
    start: 'S',
    text: 't',
    reasoning: 't',
    'tool-start': '(',
    'tool-arguments': 'a',
    'tool-end': ')',
    vectors: 'v',
    usage: 'u',
    stop: '.',
    error: '!',
  };
  const word = events.map(({ type }) => letters[type]).join('');
  expect(word).toMatch(/^(?:S(?:t|\(a*\))*(?:u?\.)?)?$|^(?:S(?:t|\(a*\))*(?:\(a*)?)?!$/);
  const ids = events.flatMap((event) => (event.type === 'tool-start' ? [event.id] : []));
  expect(new Set(ids).size).toBe(ids.length);
}

describe('OpenaiAnswerReader', () => {
  it('gives the same events for any cut of the bytes', () => {
    fc.assert(
      fc.property(answer, fc.integer({ min: 1, max: 40 }), (scripted, size) => {
        const bytes = Buffer.from(sseOf(streamedAnswer(scripted, 3)));
        const pieces: Buffer[] = [];
        for (let i = 0; i < bytes.length; i += size) pieces.push(bytes.subarray(i, i + size));
        expect(readStream(pieces)).toEqual(readStream([bytes]));
      }),
    );
  });

  it('reads a stream into the events of the whole answer', () => {
    fc.assert(
      fc.property(answer, fc.integer({ min: 1, max: 9 }), (scripted, size) => {
        const streamed = readStream([Buffer.from(sseOf(streamedAnswer(scripted, size)))]);
        const whole = new OpenaiAnswerReader(context, 'x').readDocument(JSON.stringify(wholeAnswer(scripted)));
        expectOrder(streamed);
        expect(joined(streamed)).toEqual(joined(whole));
      }),
    );
  });

  const some = fc.constantFrom<unknown>(null, 0, 1, 'a', '{', '}', '{}', 'null', '\ud83d', [], {});
  const hostileCall = fc.record(
    {
      index: fc.oneof(fc.nat(2), some),
      id: some,
      function: fc.oneof(fc.record({ name: some, arguments: some }, { requiredKeys: [] }), some),
    },
    { requiredKeys: [] },
  );
  const hostile = fc.record(
    {
      choices: fc.array(
        fc.record(
          {
            index: fc.constantFrom<unknown>(0, 1, 'x', undefined),
            delta: fc.record(
              {
                content: some,
                reasoning: some,
                refusal: some,
                function_call: some,
                tool_calls: fc.oneof(fc.array(hostileCall, { maxLength: 3 }), some),
              },
              { requiredKeys: [] },
            ),
            finish_reason: fc.constantFrom<unknown>(null, '', 'stop', 'length', 'error', 7),
            stop_reason: fc.constantFrom<unknown>(null, 'END', 5),
          },
          { requiredKeys: [] },
        ),
        { maxLength: 2 },
      ),
      usage: fc.oneof(some, fc.record({ prompt_tokens: some, completion_tokens: some })),
      error: fc.constantFrom<unknown>(undefined, undefined, undefined, null, 'boom'),
    },
    { requiredKeys: [] },
  );
  it('keeps the order of events, or fails, whatever the upstream sends', () => {
    fc.assert(
      fc.property(fc.array(hostile, { maxLength: 6 }), (values) => {
        const reader = new OpenaiAnswerReader(context, 'x');
        const writer = new AnthropicStreamWriter(options(true));
        const events: AnswerEvent[] = [];
        let failed = false;
        try {
          for (const value of values) events.push(...reader.readEvent(JSON.stringify(value)));
          events.push(...reader.end());
          failed = events.some(({ type }) => type === 'error');
        } catch (error) {
          expect(error).toBeInstanceOf(BridgeError);
          failed = true;
        }
        if (failed) {
          expect(events.filter(({ type }) => type === 'stop')).toEqual([]);
          return;
        }
        expectOrder(events);
        const cut = events.some((event) => event.type === 'stop' && event.reason === 'length');
        if (!cut) joinAnthropicStream(events.map((event) => writer.write(event)).join(''));
      }),
    );
  });
});

describe('MessagesAnswerReader', () => {
  const said: fc.Arbitrary<ScriptedAnswer> = fc.record(
    {
      reasoning: words,
      text: words,
      calls: fc.array(call, { maxLength: 3 }),
      finish: fc.constantFrom('end_turn', 'tool_use', 'max_tokens', 'refusal', 'pause_turn'),
      usage: fc.constantFrom(
        null,
        { input_tokens: 3, output_tokens: 4 },
        { input_tokens: 1, cache_read_input_tokens: 2, output_tokens: 4 },
        { input_tokens: -1, output_tokens: 'lies' },
      ),
    },
    { requiredKeys: [] },
  );

  it('gives the same events for any cut of the bytes, in order', () => {
    fc.assert(
      fc.property(said, fc.integer({ min: 1, max: 40 }), (scripted, size) => {
        const bytes = Buffer.from(messagesSse(messageEvents(scripted, 3)));
        const pieces: Buffer[] = [];
        for (let i = 0; i < bytes.length; i += size) pieces.push(bytes.subarray(i, i + size));
        const events = readStream(pieces, new MessagesAnswerReader(context, 'x'));
        expect(events).toEqual(readStream([bytes], new MessagesAnswerReader(context, 'x')));
        expectOrder(events);
      }),
    );
  });

  it('reads a stream into the events of the whole answer, which a client gets back unchanged', () => {
    fc.assert(
      fc.property(said, fc.integer({ min: 1, max: 9 }), (scripted, size) => {
        // The beginning of a stream has usage, even if its end has none.
        const answered = { ...scripted, usage: MESSAGE_USAGE };
        const bytes = Buffer.from(messagesSse(messageEvents(answered, size)));
        const streamed = readStream([bytes], new MessagesAnswerReader(context, 'x'));
        const message = wholeMessage(answered);
        const whole = new MessagesAnswerReader(context, 'x').readDocument(JSON.stringify(message));
        expect(joined(streamed)).toEqual(joined(whole));
        const writer = new AnthropicMessageWriter(options(false));
        const written = JSON.parse(whole.map((event) => writer.write(event)).join(''));
        const given = message['content'] as { id?: string; signature?: string }[];
        const anyOf = (blocks: typeof given) => blocks.map(({ id: _, signature: __, ...block }) => block);
        expect(anyOf(written.content)).toEqual(anyOf(given));
      }),
    );
  });

  const value = fc.constantFrom<unknown>(null, 0, 1, 'a', '{', '{}', '\ud83d', [], {}, 'tool_use');
  const block = fc.record(
    {
      type: fc.constantFrom<unknown>('text', 'thinking', 'tool_use', 'server_tool_use', 1),
      text: value,
      thinking: value,
      id: value,
      name: value,
      input: value,
    },
    { requiredKeys: [] },
  );
  const delta = fc.record(
    {
      type: fc.constantFrom<unknown>('text_delta', 'thinking_delta', 'input_json_delta', 'x', 0),
      text: value,
      thinking: value,
      partial_json: value,
      stop_reason: fc.constantFrom<unknown>('end_turn', 'max_tokens', 'tool_use', null, 5),
      stop_sequence: fc.constantFrom<unknown>(null, 'END', 5),
    },
    { requiredKeys: [] },
  );
  const hostileEvent = fc.record(
    {
      type: fc.constantFrom<unknown>(
        'message_start',
        'content_block_start',
        'content_block_delta',
        'content_block_stop',
        'message_delta',
        'message_stop',
        'ping',
        7,
      ),
      index: fc.oneof(fc.nat(2), value),
      message: fc.oneof(value, fc.record({ usage: value })),
      content_block: fc.oneof(block, value),
      delta: fc.oneof(delta, value),
      usage: fc.oneof(value, fc.record({ input_tokens: value, output_tokens: value })),
      error: fc.constantFrom<unknown>(undefined, undefined, undefined, null, { message: 'boom' }),
    },
    { requiredKeys: ['type'] },
  );

  it('keeps the order of events, or fails, whatever the upstream sends', () => {
    const document = fc.record(
      {
        type: fc.constantFrom<unknown>('message', 'error', 1),
        content: fc.oneof(fc.array(block, { maxLength: 4 }), value),
        stop_reason: fc.constantFrom<unknown>('end_turn', 'max_tokens', null, {}),
        usage: value,
      },
      { requiredKeys: [] },
    );
    const read = (run: (reader: MessagesAnswerReader) => readonly AnswerEvent[][]): void => {
      const events: AnswerEvent[] = [];
      try {
        for (const some of run(new MessagesAnswerReader(context, 'x'))) events.push(...some);
      } catch (error) {
        expect(error).toBeInstanceOf(BridgeError);
        return;
      }
      expectOrder(events);
    };
    fc.assert(
      fc.property(fc.array(hostileEvent, { maxLength: 8 }), document, (values, whole) => {
        read((reader) => [...values.map((one) => [...reader.readEvent(JSON.stringify(one))]), [...reader.end()]]);
        read((reader) => [[...reader.readDocument(JSON.stringify(whole))]]);
      }),
    );
  });
});

describe('Anthropic answers', () => {
  it('a stream, assembled as clients do it, equals the plain answer', () => {
    fc.assert(
      fc.property(answer, fc.boolean(), (scripted, reasoning) => {
        const events = readStream([Buffer.from(sseOf(streamedAnswer(scripted, 4)))]);
        const written = [true, false].map((stream) => {
          const how = { ...options(stream), context: { ...context, reasoning } };
          const writer = stream ? new AnthropicStreamWriter(how) : new AnthropicMessageWriter(how);
          const text = events.map((event) => writer.write(event)).join('');
          expect(writer.done).toBe(true);
          return text;
        });
        const [stream = '', whole = ''] = written;
        expect(joinAnthropicStream(stream)).toEqual(JSON.parse(whole));
        expect(whole.includes('"thinking"')).toBe(reasoning && scripted.reasoning !== undefined);
      }),
    );
  });
});

const messages = messagesWith(fc.boolean());
const conversation: fc.Arbitrary<ConversationRequest> = fc.record({
  model: words,
  stream: fc.boolean(),
  system: fc.string({ unit: 'grapheme', maxLength: 12 }),
  messages,
  tools: fc.array(tool, { maxLength: 2 }),
  toolChoice: maybe(
    fc.oneof(
      fc.record({ type: fc.constantFrom('auto' as const, 'any' as const, 'none' as const) }),
      fc.record({ type: fc.constant('tool' as const), name: words }),
    ),
  ),
  parallelToolCalls: fc.constant(true),
  maxTokens: fc.integer({ min: 1 }),
  temperature: maybe(fc.constantFrom(0, 0.5, 1)),
  topP: maybe(fc.constantFrom(0.5, 1)),
  topK: maybe(fc.nat()),
  stop: fc.array(words, { maxLength: 2 }),
  format: maybe(object),
});

/** What docs/reference/translation.md and messages.md leave of a message. */
function withLosses({ role, parts }: Message): Message {
  const textOf = (type: 'text' | 'reasoning', from: readonly Part[]): string =>
    from.flatMap((part) => (part.type === type ? [part.text] : [])).join(TEXT_GAP);
  const asPart = (type: 'text' | 'reasoning', whole: string): Part[] => (whole === '' ? [] : [{ type, text: whole }]);
  if (role === 'assistant') {
    return {
      role,
      parts: [
        ...asPart('reasoning', textOf('reasoning', parts)),
        ...asPart('text', textOf('text', parts)),
        ...parts.filter(({ type }) => type === 'tool-call'),
      ],
    };
  }
  const results = parts.filter((part) => part.type === 'tool-result');
  const images = results.flatMap(({ content }) => content.filter(({ type }) => type === 'image'));
  const rest = [...images, ...parts.filter(({ type }) => type !== 'tool-result')];
  const isText = rest.every(({ type }) => type === 'text');
  return {
    role,
    parts: [
      ...results.map((one) => ({ ...one, content: asPart('text', textOf('text', one.content)) })),
      ...(isText ? asPart('text', textOf('text', rest)) : rest),
    ] as Part[],
  };
}

describe('Anthropic requests', () => {
  it('are read as they were written', () => {
    fc.assert(
      fc.property(conversation, (request) => {
        const body = JSON.parse(JSON.stringify(writeAnthropicRequest(request)));
        expect(readRequest(body, true)).toEqual({ ok: true, value: JSON.parse(JSON.stringify(request), undefined) });
      }),
    );
  });

  it('lose on the way to chat completions only what the docs say', () => {
    fc.assert(
      fc.property(conversation, (request) => {
        const read = readRequest(writeAnthropicRequest(request), true);
        if (!read.ok) throw new Error(read.refusal.message);
        const body = JSON.parse(JSON.stringify(writeRequest(read.value)));
        expect(readOpenaiMessages(body)).toEqual({
          system: request.system,
          messages: request.messages.map(withLosses),
        });
        expect(body).toMatchObject({ model: request.model, max_tokens: request.maxTokens });
        expect((body.tools ?? []).length).toBe(request.tools.length);
        for (const [i, { name, schema }] of request.tools.entries()) {
          expect(body.tools[i].function).toMatchObject({ name, parameters: schema });
        }
        expect(body.stop ?? []).toEqual(request.stop);
      }),
    );
  });

  it('lose only what the docs say when written for an upstream', () => {
    const called = /^[a-zA-Z0-9_-]{1,256}$/;
    fc.assert(
      fc.property(conversation, (request) => {
        const body = JSON.parse(JSON.stringify(writeMessagesRequest(request)));
        const read = readRequest(body, true);
        // A conversation may consist of reasoning alone.
        if (!read.ok) return expect(body.messages).toEqual([]);
        const ids = body.messages.flatMap((one: { content: { id?: string }[] }) =>
          one.content.flatMap(({ id }) => (id === undefined ? [] : [id])),
        );
        for (const id of ids) expect(id).toMatch(called);
        const kept = (messages: readonly Message[]) =>
          mergeNeighbors(
            messages
              .map(({ role, parts }) => ({ role, parts: parts.filter(({ type }) => type !== 'reasoning') }))
              .filter(({ parts }) => parts.length > 0),
          ).map(({ role, parts }) => ({
            role,
            parts: [
              ...parts.filter(({ type }) => type === 'tool-result'),
              ...parts.filter(({ type }) => type !== 'tool-result'),
            ].map((part) => ('id' in part ? { ...part, id: '' } : part)),
          }));
        expect(kept(read.value.messages)).toEqual(JSON.parse(JSON.stringify(kept(request.messages))));
        expect(read.value).toMatchObject({
          system: request.system,
          maxTokens: request.maxTokens,
          stop: request.stop.filter((one) => one.trim() !== ''),
          stream: request.stream,
        });
        expect(read.value.tools.map(({ name }) => name)).toEqual(request.tools.map(({ name }) => name));
        expect(read.value.format).toEqual(JSON.parse(JSON.stringify({ f: request.format })).f);
      }),
    );
  });
});
