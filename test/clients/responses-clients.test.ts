/** OpenAI's unmodified clients and their `responses`, as programs of their own, at a bridge with a scripted upstream. */
import type { ServerResponse } from 'node:http';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { type ScriptedAnswer, sendAnswer } from '../support/completions.ts';
import { delta, type Recorded, sendJson, startEvents } from '../support/mock-upstream.ts';
import { type Forwarder, forwardTo, nodeOpenai, pythonOpenai, runScenario } from '../support/model-clients.ts';
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
  json: { text: '{"city":"Rom"}' },
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
  const before = messages.at(-2);
  attempts += 1;
  if (last?.role === 'tool') {
    const results = messages.filter(({ role }) => role === 'tool');
    const said = results.map((one) => `${one.tool_call_id}: ${one.content}`).join('; ');
    sendAnswer(body, response, { text: said });
    return;
  }
  switch (last?.content) {
    case 'so?':
      sendAnswer(body, response, { text: `you thought: ${before?.reasoning_content}` });
      return;
    case 'again':
      sendAnswer(body, response, { text: `I said: ${before?.content}` });
      return;
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

const done = { status: 'completed', model: 'm1', types: ['message'] };

for (const [name, find] of [
  ['Python', pythonOpenai],
  ['JavaScript', nodeOpenai],
] as const) {
  requires('generators', find()).describe(`OpenAI’s client for ${name}: responses`, (client) => {
    const run = (scenario: string) => runScenario(client, forwarder.port, scenario);

    it('gets a plain answer', async () => {
      expect(await run('plain')).toEqual({ ...done, text: 'hällo 🙂', tokens: [11, 7, 18] });
    });

    it('gets a stream', async () => {
      expect(await run('streamed')).toEqual({ ...done, text: 'hällo 🙂', tokens: [11] });
    });

    it('calls two tools at once and sends their results', async () => {
      expect(await run('tools')).toEqual([
        { ...done, types: ['message', 'function_call', 'function_call'], text: 'I look' },
        { ...done, text: 'functions.weather:0: sunny in Paris; functions.weather:1: sunny in Rom' },
      ]);
    });

    it('gets reasoning, whole or as a summary, and sends it back', async () => {
      const one = [['let me see'], 'you thought: let me see'];
      expect(await run('reasoning')).toEqual([...one, ...one]);
    });

    it('parses an answer that has a schema', async () => {
      expect(await run('parsed')).toBe('Rom');
      const { response_format: format } = JSON.parse(fixture.mock.requests.at(-1)?.body ?? '');
      expect(format.json_schema.schema.required).toEqual(['city']);
    });

    it('continues, reads, refers to, lists and deletes answers', async () => {
      expect(await run('kept')).toEqual({
        read: 'I said: hällo 🙂',
        previous: true,
        third: 'hällo 🙂',
        items: ['user', 'assistant', 'user'],
        gone: [400, 'previous_response_not_found', 'previous_response_id'],
      });
    });

    it('tries again when the upstream is busy, not when it refuses, and sees a stream break', async () => {
      const [tried, refused, broken] = (await run('errors')) as [string, unknown[], unknown[]];
      expect(tried).toBe('attempt 3');
      expect(refused).toEqual(['BadRequestError', 400, 'invalid_request_error']);
      expect(broken.at(-1)).toBe('server_error');
      expect(attempts).toBe(5);
    });

    it('ends the upstream’s request when it leaves a stream', async () => {
      expect(await run('cancel')).toBe('left');
      await aborted;
      await expect.poll(() => fixture.port.stats().inFlight).toBe(0);
    });
  });
}

describe('bridge and clients', () => {
  it('no request is left behind', async () => {
    await expect.poll(() => fixture.port.stats()).toMatchObject({ inFlight: 0, bodyBytes: 0 });
  });
});
