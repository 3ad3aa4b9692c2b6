/** LlamaIndex and LiteLLM, unmodified, by each API that they speak, at a bridge with a scripted upstream. */
import type { ServerResponse } from 'node:http';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { sendAnswer } from '../support/completions.ts';
import { type Recorded, sendJson } from '../support/mock-upstream.ts';
import { type Forwarder, forwardTo, pythonFrameworks, runScenario } from '../support/model-clients.ts';
import { requiresFullRun } from '../support/requires.ts';

let fixture: BridgeFixture;
let forwarder: Forwarder;

beforeAll(async () => {
  fixture = await bridgeFixture({ models: ['m1'], policy: { defaultModel: 'm1' } });
  forwarder = await forwardTo(fixture.socketPath);
  fixture.mock.answer(answer);
});
afterAll(async () => {
  await forwarder[Symbol.asyncDispose]();
  await fixture.close();
});

const CALLS = ['Paris', 'Rom'].map((city, i) => ({
  id: `call_${i}`,
  name: 'weather',
  arguments: JSON.stringify({ city }),
}));

/** What the scripted model says to the last message. */
function answer({ body }: Recorded, response: ServerResponse): void {
  const { messages } = JSON.parse(body) as { messages: { role: string; content: string }[] };
  const last = messages.at(-1);
  if (last?.role === 'tool') {
    const results = messages.filter(({ role }) => role === 'tool');
    sendAnswer(body, response, { text: results.map(({ content }) => content).join('; ') });
  } else if (last?.content === 'always wrong') {
    sendJson(response, 400, { error: { message: 'wrong, says the server' } });
  } else if (last?.content === 'weather') sendAnswer(body, response, { calls: CALLS });
  else sendAnswer(body, response, { text: 'hällo 🙂' });
}

requiresFullRun('generators', pythonFrameworks).describe('frameworks', (client) => {
  it.each([
    ['LlamaIndexOpenAI', 400],
    ['LlamaIndexOllama', 400],
    ['LiteLLMOpenAI', 400],
    ['LiteLLMAnthropic', 400],
    ['LiteLLMOllama', 400],
  ])('%s: a plain answer, a stream, two tools, an error', async (name, error) => {
    expect(await runScenario(client, forwarder.port, name)).toEqual({
      plain: 'hällo 🙂',
      stream: 'hällo 🙂',
      tool: 'sunny in Paris; sunny in Rom',
      error,
    });
  });
});
