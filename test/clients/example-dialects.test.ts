/** The agents of `examples/dialects`, each with its dialect's own client: a call of a tool, its result, an answer. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { sendAnswer } from '../support/completions.ts';
import { dialectExample, type Forwarder, forwardTo, runClient } from '../support/model-clients.ts';
import { requires } from '../support/requires.ts';

let fixture: BridgeFixture;
let forwarder: Forwarder;

beforeAll(async () => {
  fixture = await bridgeFixture({ models: ['m1'] });
  forwarder = await forwardTo(fixture.socketPath);
  fixture.mock.answer(({ body }, response) => {
    const { messages } = JSON.parse(body) as { messages: { role: string; content: string }[] };
    const last = messages.at(-1);
    if (last?.role === 'tool') {
      sendAnswer(body, response, { text: `It is ${last.content}.` });
      return;
    }
    const call = { id: 'call_1', name: 'multiply', arguments: '{"a": 12, "b": 7}' };
    sendAnswer(body, response, { calls: last?.content === 'Multiply 12 by 7.' ? [call] : [] });
  });
});
afterAll(async () => {
  await forwarder[Symbol.asyncDispose]();
  await fixture.close();
});

for (const name of ['messages_agent.py', 'responses_agent.py', 'ollama_agent.py']) {
  requires('generators', dialectExample(name)).describe(name, (client) => {
    it('calls the tool, and answers with its result', async () => {
      expect(await runClient(client, forwarder.port)).toBe('tool    multiply(12, 7) = 84\nanswer  It is 84.\n');
    });
  });
}
