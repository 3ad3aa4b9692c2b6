/** Vercel's AI SDK, unmodified, as a program of its own, at a bridge with a scripted upstream of the OpenAI API. */
import type { ServerResponse } from 'node:http';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { sendAnswer } from '../support/completions.ts';
import { delta, type Recorded, sendJson, startEvents } from '../support/mock-upstream.ts';
import { type Forwarder, forwardTo, nodeAiSdk, runScenario } from '../support/model-clients.ts';
import { requires } from '../support/requires.ts';

let fixture: BridgeFixture;
let forwarder: Forwarder;
let aborted: Promise<void> | undefined;

beforeAll(async () => {
  fixture = await bridgeFixture({ models: ['m1', 'embed-1'], policy: { defaultModel: 'm1' } });
  forwarder = await forwardTo(fixture.socketPath);
  fixture.mock.answer(answer);
});
afterAll(async () => {
  await forwarder[Symbol.asyncDispose]();
  await fixture.close();
});

const CITIES = ['Paris', 'Rom'];
const CALLS = CITIES.map((city, i) => ({ id: `call_${i}`, name: 'weather', arguments: JSON.stringify({ city }) }));

interface Sent {
  readonly messages: readonly {
    readonly role: string;
    readonly content: string | readonly { readonly text?: string }[];
  }[];
}

const textOf = (content: Sent['messages'][number]['content'] = ''): string =>
  typeof content === 'string' ? content : content.map(({ text = '' }) => text).join('');

/** What the scripted model says to the last message. */
function answer({ path, body, aborted: ended }: Recorded, response: ServerResponse): void {
  if (path === '/v1/embeddings') {
    const data = [{ index: 0, embedding: [1, 0.5] }];
    sendJson(response, 200, { object: 'list', model: 'embed-1', data, usage: { prompt_tokens: 1 } });
    return;
  }
  const { messages } = JSON.parse(body) as Sent;
  const last = messages.at(-1);
  if (last?.role === 'tool') {
    const results = messages.filter(({ role }) => role === 'tool');
    sendAnswer(body, response, { text: results.map((one) => textOf(one.content)).join('; ') });
    return;
  }
  switch (textOf(last?.content)) {
    case 'weather':
      sendAnswer(body, response, { calls: CALLS });
      return;
    case 'json':
      sendAnswer(body, response, { text: '{"city":"Rom"}' });
      return;
    case 'always wrong':
      sendJson(response, 400, { error: { message: 'wrong', type: 'invalid_request_error' } });
      return;
    case 'endless':
      aborted = ended;
      startEvents(response);
      response.write(delta('one'));
      return;
    default:
      sendAnswer(body, response, { text: 'hällo 🙂' });
  }
}

requires('generators', nodeAiSdk()).describe('Vercel’s AI SDK', (client) => {
  it.each(['chat', 'responses', 'messages'])(
    '%s: answers, streams, tools, images, a schema, errors, leaving',
    async (api) => {
      const before = fixture.mock.requests.length;
      expect(await runScenario(client, forwarder.port, api)).toEqual({
        plain: 'hällo 🙂',
        streamed: 'hällo 🙂',
        tools: [CITIES.map((city) => ['weather', { city }]), 'sunny in Paris; sunny in Rom'],
        image: 'hällo 🙂',
        schema: { city: 'Rom' },
        error: [400, 'wrong'],
        left: 'left',
      });
      await aborted;
      await expect.poll(() => fixture.port.stats().inFlight).toBe(0);
      const sent = fixture.mock.requests.slice(before).map(({ body }) => body);
      const sentWith = (part: string) => sent.filter((body) => body.includes(part));
      expect(sentWith('data:image/png;base64,iVBORw0KGgoAAA==')).toHaveLength(1);
      expect(sentWith('"json_schema"')).toHaveLength(1);
    },
  );

  it('embeddings', async () => {
    expect(await runScenario(client, forwarder.port, 'embeddings')).toEqual([1, 0.5]);
  });
});
