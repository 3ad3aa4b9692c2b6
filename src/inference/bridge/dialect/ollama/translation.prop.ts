import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ScriptedAnswer, streamedAnswer, wholeAnswer } from '../../../../../test/support/completions.ts';
import { answerOptions, object, words } from '../../../../../test/support/conversation-arbitraries.ts';
import { BridgeError } from '../../errors.ts';
import type { JsonObject } from '../../json-body.ts';
import type { AnswerOptions } from '../dialect.ts';
import type { AnswerEvent, Part } from '../model.ts';
import { OpenaiAnswerReader } from '../openai/read-answer.ts';
import { OpenaiVectorReader } from '../openai/read-vectors.ts';
import { writeRequest } from '../openai/write-request.ts';
import { ollamaDialect } from './ollama.ts';
import { readChat } from './read-request.ts';
import { OllamaAnswerWriter } from './write-answer.ts';

const CUT = { id: 'z', name: 'f', arguments: '{"cut' };
const answer: fc.Arbitrary<ScriptedAnswer> = fc
  .record(
    {
      reasoning: words,
      text: words,
      calls: fc.array(
        fc.record({
          id: fc.constantFrom('a', 'b', 'c'),
          name: fc.constantFrom('f', 'g'),
          arguments: object.map((value) => JSON.stringify(value)),
        }),
        { maxLength: 3 },
      ),
      finish: fc.constantFrom('stop', 'tool_calls', 'length', 'content_filter'),
      usage: fc.constantFrom(null, { prompt_tokens: 3, completion_tokens: 4 }),
    },
    { requiredKeys: [] },
  )
  .map(({ calls = [], ...more }) => ({ ...more, calls: more.finish === 'length' ? [...calls, CUT] : calls }));

const options = (stream: boolean, name = 'chat', reasoning = true): AnswerOptions =>
  answerOptions(stream, { name, context: { stop: [], reasoning } });

interface Line {
  readonly done: boolean;
  readonly done_reason?: string;
  readonly response?: string;
  readonly thinking?: string;
  readonly message?: { readonly content: string; readonly thinking?: string; readonly tool_calls?: readonly unknown[] };
  readonly prompt_eval_count?: number;
  readonly eval_count?: number;
}

/** Assembles the lines as a client does. @throws unless only the last line is done */
function joined(text: string): unknown {
  const lines = text.split('\n');
  if (lines.pop() !== '') throw new Error('half a line');
  const parts = lines.map((line) => JSON.parse(line) as Line);
  if (parts.findIndex(({ done }) => done) !== parts.length - 1) throw new Error('an early end');
  const last = parts.at(-1);
  const said = parts.map((part) => part.message ?? { ...part, content: part.response ?? '' });
  return {
    content: said.map(({ content }) => content).join(''),
    thinking: said.map(({ thinking = '' }) => thinking).join(''),
    calls: parts.flatMap(({ message }) => message?.tool_calls ?? []),
    ends: [last?.done_reason, last?.prompt_eval_count, last?.eval_count],
  };
}

const write = (events: readonly AnswerEvent[], how: AnswerOptions): string => {
  const writer = new OllamaAnswerWriter(how);
  const text = events.map((event) => writer.write(event)).join('');
  expect(writer.done).toBe(events.at(-1)?.type === 'stop');
  return text;
};

describe('Ollama answers', () => {
  it('a stream, assembled as clients do it, equals the plain answer', () => {
    fc.assert(
      fc.property(answer, fc.constantFrom('chat', 'generate'), fc.boolean(), (scripted, name, reasoning) => {
        const context = { stop: [], reasoning };
        const reader = new OpenaiAnswerReader(context, 'x');
        const streamed = streamedAnswer(scripted, 4).flatMap((data) => reader.readEvent(data));
        const whole = new OpenaiAnswerReader(context, 'x').readDocument(JSON.stringify(wholeAnswer(scripted)));
        const stream = write(streamed, options(true, name, reasoning));
        const plain = write(whole, options(false, name, reasoning));
        expect(joined(stream)).toEqual(joined(`${plain}\n`));
        expect(plain.includes('"thinking":')).toBe(reasoning && scripted.reasoning !== undefined);
      }),
    );
  });

  const some = fc.constantFrom<unknown>(null, 0, 'a', '\n', '{', '{}', '[]', '\ud83d', [], {});
  const hostile = fc.record(
    {
      choices: fc.array(
        fc.record(
          {
            delta: fc.record(
              {
                content: some,
                reasoning: some,
                tool_calls: fc.array(
                  fc.record(
                    { index: some, id: some, function: fc.record({ name: some, arguments: some }) },
                    { requiredKeys: [] },
                  ),
                  { maxLength: 2 },
                ),
              },
              { requiredKeys: [] },
            ),
            finish_reason: fc.constantFrom<unknown>(null, '', 'stop', 'length', 'error', 7),
          },
          { requiredKeys: [] },
        ),
        { maxLength: 2 },
      ),
      usage: some,
      error: fc.constantFrom<unknown>(undefined, undefined, undefined, 'boom'),
    },
    { requiredKeys: [] },
  );
  it('end only if the upstream’s answer is whole, and every line is JSON', () => {
    fc.assert(
      fc.property(fc.array(hostile, { maxLength: 6 }), (values) => {
        const reader = new OpenaiAnswerReader({ stop: [], reasoning: true }, 'x');
        const writer = new OllamaAnswerWriter(options(true));
        let text = '';
        let failed = false;
        const take = (events: readonly AnswerEvent[]): void => {
          for (const event of events) {
            failed ||= event.type === 'error';
            text += writer.write(event);
          }
        };
        try {
          for (const value of values) take(reader.readEvent(JSON.stringify(value)));
          take(reader.end());
        } catch (error) {
          expect(error).toBeInstanceOf(BridgeError);
          failed = true;
        }
        expect(writer.done).toBe(!failed);
        if (!failed) joined(text);
        const failure = { status: 502, code: 'c', message: 'm\n' };
        for (const line of (text + ollamaDialect.errorEvent(failure)).split('\n').slice(0, -1)) {
          expect(JSON.parse(line)).toBeTypeOf('object');
        }
      }),
    );
  });
});

describe('Ollama requests', () => {
  const turn = fc.record({
    asked: words,
    thinking: fc.option(words, { nil: undefined }),
    said: fc.oneof(fc.constant(''), words),
    names: fc.uniqueArray(fc.constantFrom('f', 'g', 'h'), { maxLength: 3 }),
    input: object,
    order: fc.infiniteStream(fc.nat()),
  });

  it('assign results to their calls in any order, even if they name only the tool', () => {
    fc.assert(
      fc.property(fc.array(turn, { minLength: 1, maxLength: 4 }), (turns) => {
        const messages = turns.flatMap(({ asked, thinking, said, names, input, order }) => {
          const keys = new Map(names.map((name) => [name, order.next().value]));
          const mixed = names.toSorted((a, b) => (keys.get(a) ?? 0) - (keys.get(b) ?? 0));
          return [
            { role: 'user', content: asked },
            {
              role: 'assistant',
              content: said,
              thinking,
              tool_calls: names.map((name) => ({ function: { name, arguments: input } })),
            },
            ...mixed.map((name) => ({ role: 'tool', tool_name: name, content: `of ${name}` })),
          ];
        });
        const read = readChat({ model: 'm', messages });
        if (!read.ok) throw new Error(read.refusal.message);
        const parts = read.value.messages.flatMap((message): readonly Part[] => message.parts);
        const calls = parts.filter((part) => part.type === 'tool-call');
        const results = parts.filter((part) => part.type === 'tool-result');
        expect(calls.map(({ name }) => name)).toEqual(turns.flatMap(({ names }) => names));
        expect(new Set(calls.map(({ id }) => id)).size).toBe(calls.length);
        expect(results.length).toBe(calls.length);
        for (const { id, content } of results) {
          const name = calls.find((call) => call.id === id)?.name;
          expect(content).toEqual([{ type: 'text', text: `of ${name}` }]);
        }
        const roles = read.value.messages.map(({ role }) => role);
        expect(roles.every((role, i) => role !== roles[i - 1])).toBe(true);
      }),
    );
  });

  const any = fc.constantFrom<unknown>(null, '', 'a', 7, true, [], {}, ['a'], undefined);
  const message = fc.record(
    {
      role: fc.oneof(fc.constantFrom('system', 'user', 'assistant', 'tool', 'TOOL'), any),
      content: fc.oneof(words, any),
      thinking: any,
      images: fc.oneof(fc.constant(['iVBORw0KGgoA']), any),
      tool_name: fc.constantFrom('f', 'g', '', undefined),
      tool_call_id: fc.constantFrom('a', 'call_0', '', undefined),
      tool_calls: fc.oneof(
        fc.array(
          fc.record(
            {
              id: fc.constantFrom('a', 'call_0', '', undefined),
              function: fc.record({ name: fc.constantFrom('f', 'g'), arguments: object }),
            },
            { requiredKeys: ['function'] },
          ),
          { maxLength: 3 },
        ),
        any,
      ),
    },
    { requiredKeys: ['role'] },
  );
  it('are refused, or go upstream with results for earlier calls only', () => {
    fc.assert(
      fc.property(fc.array(message, { maxLength: 6 }), (messages) => {
        const read = readChat({ model: 'm', messages });
        if (!read.ok) {
          expect(read.refusal).toMatchObject({ status: 400, code: 'invalid_value' });
          return;
        }
        const open = new Set<unknown>();
        const made: unknown[] = [];
        for (const one of writeRequest(read.value)['messages'] as readonly JsonObject[]) {
          for (const call of (one['tool_calls'] ?? []) as readonly JsonObject[]) {
            open.add(call['id']);
            made.push(call['id']);
          }
          if (one['role'] === 'tool') expect(open.delete(one['tool_call_id'])).toBe(true);
        }
        expect(new Set(made).size).toBe(made.length);
      }),
      { numRuns: 500 },
    );
  });
});

describe('OpenaiVectorReader', () => {
  const vector = fc.array(fc.oneof(fc.double({ noNaN: true, noDefaultInfinity: true }), fc.nat()), {
    minLength: 1,
    maxLength: 5,
  });
  const note = fc.constantFrom(undefined, '"embedding": [1]', '"embedding":0', '[', '\\"');

  it('gives each input its numbers, however the answer is cut, spaced and annotated', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(vector, note), { minLength: 1, maxLength: 6 }),
        fc.constantFrom(0, 1, '\t'),
        fc.integer({ min: 1, max: 200 }),
        (inputs, space, size) => {
          const data = inputs.map(([embedding, text], index) => ({ index, note: text, embedding }));
          const body = JSON.stringify({ data, usage: { prompt_tokens: 5 } }, undefined, space);
          const reader = new OpenaiVectorReader({ stop: [], reasoning: false, vectors: inputs.length });
          const bytes = Buffer.from(body);
          const events: AnswerEvent[] = [];
          for (let i = 0; i < bytes.length; i += size) {
            events.push(...reader.readPart(bytes.subarray(i, i + size)));
          }
          events.push(...reader.end());
          expect(events.map(({ type }) => type).join(' ')).toMatch(/^start( vectors)+ usage stop$/);
          const text = events.map((event) => (event.type === 'vectors' ? event.text : '')).join('');
          expect(JSON.parse(`[${text}]`)).toEqual(inputs.map(([embedding]) => JSON.parse(JSON.stringify(embedding))));
        },
      ),
    );
  });

  it('returns events or throws a BridgeError for whatever an upstream sends', () => {
    const part = fc.constantFrom('{', '}', '[', ']', '"embedding":', '"data":', '[1]', '0', ',', '"a"');
    fc.assert(
      fc.property(fc.array(part, { maxLength: 12 }), fc.nat(2), (parts, vectors) => {
        const reader = new OpenaiVectorReader({ stop: [], reasoning: false, vectors });
        try {
          const events = reader.readDocument(parts.join(''));
          const text = events.map((event) => (event.type === 'vectors' ? event.text : '')).join('');
          if (events.at(-1)?.type === 'stop') {
            expect(JSON.parse(`[${text}]`)).toEqual(Array(vectors).fill([1]));
          }
        } catch (error) {
          expect(error).toBeInstanceOf(BridgeError);
        }
      }),
    );
  });
});
