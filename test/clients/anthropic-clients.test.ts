/** Anthropic's unmodified clients, as programs of their own, at a bridge with a scripted upstream of the OpenAI API. */
import type { ServerResponse } from 'node:http';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { type ScriptedAnswer, sendAnswer } from '../support/completions.ts';
import { delta, type Recorded, sendJson, startEvents } from '../support/mock-upstream.ts';
import { type Forwarder, forwardTo, nodeAnthropic, pythonAnthropic, runScenario } from '../support/model-clients.ts';
import { requires } from '../support/requires.ts';

let fixture: BridgeFixture;
let forwarder: Forwarder;
let attempts = 0;
let aborted: Promise<void> | undefined;

beforeAll(async () => {
  fixture = await bridgeFixture({ policy: { defaultModel: 'm1' } });
  forwarder = await forwardTo(fixture.socketPath);
  fixture.mock.answer(answer);
});
beforeEach(() => {
  attempts = 0;
});
afterAll(async () => {
  await forwarder[Symbol.asyncDispose]();
  await fixture.close();
});

const CALLS = ['Paris', 'Rom'].map((city, i) => ({
  id: `functions.weather:${i}`,
  name: 'weather',
  arguments: JSON.stringify({ city }),
}));
const ANSWERS: Readonly<Record<string, ScriptedAnswer>> = {
  plain: { text: 'hällo 🙂' },
  weather: { text: 'I look', calls: CALLS },
  think: { reasoning: 'let me see', text: 'done' },
  'so?': { reasoning: 'again', text: 'done again' },
};

interface WireMessage {
  readonly role: string;
  readonly content: string;
  readonly tool_call_id?: string;
  readonly reasoning_content?: string;
}

/** What the scripted model says to the last message. */
function answer({ body, aborted: ended }: Recorded, response: ServerResponse): void {
  const { messages } = JSON.parse(body) as { messages: WireMessage[] };
  const last = messages.at(-1);
  attempts += 1;
  if (last?.role === 'tool') {
    const results = messages.filter(({ role }) => role === 'tool');
    const said = results.map((one) => `${one.tool_call_id}: ${one.content}`).join('; ');
    sendAnswer(body, response, { text: said });
    return;
  }
  switch (last?.content) {
    case 'busy twice':
      if (attempts > 2) sendAnswer(body, response, { text: `attempt ${attempts}` });
      else sendJson(response, 503, { error: { message: 'busy' } }, { 'retry-after-ms': '1' });
      return;
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
      sendAnswer(body, response, ANSWERS[last?.content ?? ''] ?? { text: '?' });
  }
}

const text = (value: string) => ({ type: 'text', text: value });
const thought = (value: string) => ({ type: 'thinking', thinking: value, signature: 'neurovisor' });
const end = { stop_reason: 'end_turn', stop_sequence: null, model: 'm1' };

for (const [name, find] of [
  ['Python', pythonAnthropic],
  ['JavaScript', nodeAnthropic],
] as const) {
  requires('generators', find()).describe(`Anthropic’s client for ${name}`, (client) => {
    const run = (scenario: string) => runScenario(client, forwarder.port, scenario);

    it('gets a plain answer', async () => {
      const content = [text('hällo 🙂')];
      expect(await run('plain')).toEqual({ content, ...end, input: 11 });
    });

    it('gets a stream', async () => {
      const content = [text('hällo 🙂')];
      expect(await run('streamed')).toEqual({ content, ...end, text: 'hällo 🙂', input: 11 });
    });

    it('calls two tools at once and sends their results', async () => {
      const calls = CALLS.map(({ id, name: tool, arguments: json }) => ({
        type: 'tool_use',
        id,
        name: tool,
        input: JSON.parse(json),
      }));
      expect(await run('tools')).toEqual([
        { ...end, content: [text('I look'), ...calls], stop_reason: 'tool_use' },
        { ...end, content: [text('functions.weather:0: sunny in Paris; functions.weather:1: sunny in Rom')] },
      ]);
    });

    it('gets thinking, and sends it back', async () => {
      expect(await run('thinking')).toEqual([
        { ...end, content: [thought('let me see'), text('done')] },
        { ...end, content: [thought('again'), text('done again')] },
      ]);
      const { messages } = JSON.parse(fixture.mock.requests.at(-1)?.body ?? '') as { messages: WireMessage[] };
      expect(messages[1]).toMatchObject({ content: 'done', reasoning_content: 'let me see' });
    });

    it('tries again when the upstream is busy, not when it refuses, and sees a stream break', async () => {
      const [tried, refused, broken] = (await run('errors')) as [string, unknown[], unknown[]];
      expect(tried).toBe('attempt 3');
      expect(refused).toEqual(['BadRequestError', 400, 'invalid_request_error']);
      expect(broken.at(-1)).toBe('api_error');
      expect(attempts).toBe(5);
    });

    it('ends the upstream’s request when it leaves a stream', async () => {
      expect(await run('cancel')).toBe('left');
      await aborted;
      await expect.poll(() => fixture.port.stats().inFlight).toBe(0);
    });

    it('counts tokens and lists models', async () => {
      expect(await run('rest')).toEqual({ counted: 2, models: ['m1', 'm2'] });
    });
  });
}

describe('bridge and clients', () => {
  it('no request is left behind', async () => {
    await expect.poll(() => fixture.port.stats()).toMatchObject({ inFlight: 0, bodyBytes: 0 });
  });
});
