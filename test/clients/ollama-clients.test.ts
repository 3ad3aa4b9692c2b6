/** Ollama's unmodified clients, as programs of their own, at a bridge with a scripted upstream of the OpenAI API. */
import type { ServerResponse } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { type ScriptedAnswer, sendAnswer } from '../support/completions.ts';
import { delta, type Recorded, sendJson, startEvents } from '../support/mock-upstream.ts';
import { type Forwarder, forwardTo, nodeOllama, pythonOllama, runScenario } from '../support/model-clients.ts';
import { requires } from '../support/requires.ts';

let fixture: BridgeFixture;
let forwarder: Forwarder;
let aborted: Promise<void> | undefined;

beforeAll(async () => {
  fixture = await bridgeFixture({ models: ['m1', 'embed-1'] });
  forwarder = await forwardTo(fixture.socketPath);
  fixture.mock.answer(answer);
});
afterAll(async () => {
  await forwarder[Symbol.asyncDispose]();
  await fixture.close();
});

const ANSWERS: Readonly<Record<string, ScriptedAnswer>> = {
  plain: { text: 'hällo 🙂' },
  weather: {
    text: 'I look',
    calls: ['Paris', 'Rom'].map((city, i) => ({
      id: `functions.weather:${i}`,
      name: 'weather',
      arguments: JSON.stringify({ city }),
    })),
  },
  think: { reasoning: 'let me see', text: 'done' },
  'so?': { reasoning: 'again', text: 'done again' },
};

interface Sent {
  readonly messages: readonly {
    readonly role: string;
    readonly content: string | readonly { readonly text?: string }[];
    readonly tool_call_id?: string;
  }[];
  readonly input?: readonly string[];
  readonly [name: string]: unknown;
}

/** What the scripted model says to the last message. */
function answer({ path, body, aborted: ended }: Recorded, response: ServerResponse): void {
  const { messages, input = [] } = JSON.parse(body) as Sent;
  if (path === '/v1/embeddings') {
    const data = input.map((_, index) => ({ index, embedding: [index, 0.5] }));
    sendJson(response, 200, { data, usage: { prompt_tokens: 3, total_tokens: 3 } });
    return;
  }
  const last = messages.at(-1);
  if (last?.role === 'tool') {
    const results = messages.filter(({ role }) => role === 'tool');
    const said = results.map((one) => `${one.tool_call_id}: ${one.content}`).join('; ');
    sendAnswer(body, response, { text: said });
    return;
  }
  const content = last?.content ?? '';
  const said = typeof content === 'string' ? content : content[0]?.text;
  switch (said) {
    case 'always wrong':
      sendJson(response, 400, { error: { message: 'wrong' } });
      return;
    case 'breaks':
      startEvents(response);
      response.end(delta('half'));
      return;
    case 'endless':
      aborted = ended;
      startEvents(response);
      response.write(delta('one'));
      return;
    default:
      sendAnswer(body, response, ANSWERS[said ?? ''] ?? { text: '?' });
  }
}

const end = { model: 'm1', done: true, done_reason: 'stop' };
const message = (content: string, more: object = {}) => ({ ...end, message: { role: 'assistant', content, ...more } });

for (const [name, find] of [
  ['Python', () => pythonOllama('ollama.py')],
  ['JavaScript', nodeOllama],
] as const) {
  requires('generators', find()).describe(`Ollama’s client for ${name}`, (client) => {
    let seen: Record<string, unknown>;
    let requests: readonly Sent[];
    beforeAll(async () => {
      const before = fixture.mock.requests.length;
      seen = (await runScenario(client, forwarder.port, 'all')) as Record<string, unknown>;
      requests = fixture.mock.requests.slice(before).map(({ body }) => JSON.parse(body) as Sent);
    });
    const sentWith = (part: string): Sent[] => requests.filter((request) => JSON.stringify(request).includes(part));

    it('gets plain answers of chat and generate', () => {
      const text = 'hällo 🙂';
      const counts = [11, 7, true];
      expect(seen['plain']).toEqual([message(text), { ...end, response: text }, ...counts]);
      const system = { role: 'system', content: 'be brief' };
      expect(sentWith('be brief').map(({ messages }) => messages[0])).toEqual([system, system]);
    });

    it('gets streams of chat and generate', () => {
      const whole = ['hällo 🙂', 'stop', 11, 7];
      expect(seen['streamed']).toEqual([whole, whole]);
    });

    it('calls two tools at once and sends their results', () => {
      const calls = ['Paris', 'Rom'].map((city) => ['weather', { city }]);
      const said = 'call_0: sunny in Paris; call_1: sunny in Rom';
      const [first, second] = seen['tools'] as [unknown, [string, unknown[], string]];
      expect(first).toEqual(['I look', calls, 'stop']);
      // One client keeps the ids of calls, the other does not.
      expect(second[0].replaceAll('functions.weather:', 'call_')).toBe(said);
      expect(second.slice(1)).toEqual([[], 'stop']);
    });

    it('gets thinking, sends it back, and can do without', () => {
      expect(seen['thinking']).toEqual([message('done', { thinking: 'let me see' }), message('done again')]);
      expect(sentWith('so?')[0]?.messages[1]).toMatchObject({ content: 'done', reasoning_content: 'let me see' });
    });

    it('sends images and options', () => {
      expect(seen['image']).toEqual(message('hällo 🙂'));
      const url = 'data:image/png;base64,iVBORw0KGgoAAA==';
      const [request] = sentWith('"seed":7');
      expect(request).not.toHaveProperty('num_ctx');
      expect(request?.messages[0]?.content).toEqual([
        { type: 'text', text: 'plain' },
        { type: 'image_url', image_url: { url } },
      ]);
    });

    it('asks for JSON and for a schema', () => {
      expect(seen['formats']).toEqual([true, true]);
      const schema = { type: 'object', properties: { a: { type: 'integer' } } };
      expect(sentWith('response_format').map((request) => request['response_format'])).toEqual([
        { type: 'json_object' },
        { type: 'json_schema', json_schema: { name: 'answer', strict: false, schema } },
      ]);
    });

    it('sees errors with their status, in a stream, and of what a sandbox may not do', () => {
      const errors = seen['errors'] as [number, string][];
      expect(errors[0]).toEqual([400, 'wrong']);
      expect(errors.map(([status]) => status)).toEqual([400, 404, -1, 403, 403, 403, 403, 400]);
      expect(errors[1]?.[1]).toContain('Available: m1, embed-1.');
      expect(errors[2]?.[1]).toBe('The model server ended its answer early.');
      expect(errors[3]?.[1]).toContain('POST /api/pull is refused');
      expect(errors[7]?.[1]).toContain('template: is refused here');
    });

    it('ends the upstream’s request when it leaves a stream', async () => {
      expect(await runScenario(client, forwarder.port, 'cancel')).toBe('left');
      await aborted;
      await expect.poll(() => fixture.port.stats().inFlight).toBe(0);
    });

    it('lists, shows and loads models', () => {
      expect(seen['rest']).toEqual({
        models: ['m1', 'embed-1'],
        running: [],
        capabilities: ['completion', 'tools', 'vision', 'thinking'],
        loaded: 'load',
      });
    });

    it('gets embeddings', () => {
      const first = [0, 0.5];
      expect(seen['vectors']).toEqual([[first, [1, 0.5]], 3, first]);
    });
  });
}

requires('generators', pythonOllama('langchain-ollama.py')).describe('LangChain’s classes for Ollama', (client) => {
  it('call tools, think, stream, complete and embed', async () => {
    expect(await runScenario(client, forwarder.port, 'langchain')).toEqual({
      calls: ['Paris', 'Rom'].map((city) => ['weather', { city }]),
      answer: expect.stringMatching(/^[^;]+: sunny in Paris; [^;]+: sunny in Rom$/),
      thought: ['let me see', 'done'],
      streamed: 'hällo 🙂',
      usage: { input_tokens: 11, output_tokens: 7, total_tokens: 18 },
      text: 'hällo 🙂',
      vectors: [
        [0, 0.5],
        [1, 0.5],
      ],
    });
  });
});

describe('bridge and clients', () => {
  it('no request is left behind', async () => {
    await expect.poll(() => fixture.port.stats()).toMatchObject({ inFlight: 0, bodyBytes: 0 });
  });
});
