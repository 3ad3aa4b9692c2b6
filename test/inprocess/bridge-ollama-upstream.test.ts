/**
 * Special handling of Ollama as an upstream, recognized by its model list. `real-servers.test.ts` has Ollama itself.
 */
import { expect, it } from 'vitest';
import { bridgeFixture } from '../support/bridge-fixture.ts';
import { sendJson, startMockUpstream } from '../support/mock-upstream.ts';

const CHAT = '/v1/chat/completions';
const BODY = { model: 'm1', messages: [{ role: 'user', content: 'hello' }] };
const ANSWER = {
  choices: [{ index: 0, message: { role: 'assistant', content: 'x' }, finish_reason: 'stop' }],
  usage: { prompt_tokens: 3, completion_tokens: 5 },
};

it('Ollama gets a limit in the only field that it knows, with a budget and without one', async () => {
  const ollama = await startMockUpstream({ models: ['m1:latest'], ownedBy: 'library' });
  const upstream = () => Promise.resolve(ollama.target);
  const fixture = await bridgeFixture({ upstream, policy: { budget: { outputTokens: 12 } } });
  try {
    ollama.answer((_, response) => sendJson(response, 200, ANSWER));
    const sentFor = async (more: object): Promise<unknown> => {
      expect((await fixture.call(CHAT, { ...BODY, ...more })).status).toBe(200);
      return JSON.parse(ollama.requests.at(-1)?.body ?? '');
    };
    const cut = { max_tokens: 12, max_completion_tokens: 12 };
    expect(await sentFor({ max_completion_tokens: 1000 })).toMatchObject(cut);
    fixture.port.setPolicy({});
    expect(await sentFor({ max_completion_tokens: 9 })).toMatchObject({ max_tokens: 9 });
    const both = { max_tokens: 4, max_completion_tokens: 9 };
    expect(await sentFor(both)).toMatchObject(both);
    expect(await sentFor({})).not.toHaveProperty('max_tokens');
  } finally {
    await fixture.close();
    await ollama.close();
  }
});
