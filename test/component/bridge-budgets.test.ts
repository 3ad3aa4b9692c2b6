/** Budgets of sandboxes at the bridge (B10, B23): what is refused, what reaches the upstream, what is counted. */
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { ModelBudget } from '../../src/base/model-limits.ts';
import { type BridgeFixture, bridgeFixture, call, open } from '../support/bridge-fixture.ts';
import {
  delta,
  done,
  finish,
  type Recorded,
  sendJson,
  startEvents,
  usageEvent,
} from '../support/mock-upstream.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const CHAT = '/v1/chat/completions';
const BODY = { model: 'm1', messages: [{ role: 'user', content: 'hello' }], max_tokens: 10 };
const ACCOUNT = 'sandbox-a';

const answered = (promptTokens: number, completionTokens: number) => ({
  choices: [{ index: 0, message: { role: 'assistant', content: 'x' }, finish_reason: 'stop' }],
  usage: { prompt_tokens: promptTokens, completion_tokens: completionTokens },
});

async function withBudget(budget: ModelBudget, used: [number, number] = [3, 5]): Promise<void> {
  fixture = await bridgeFixture({ policy: { budget } });
  fixture.mock.answer((_, response) => sendJson(response, 200, answered(...used)));
}

const sent = ({ body }: Recorded): Record<string, unknown> =>
  JSON.parse(body) as Record<string, unknown>;
const lastSent = (): Record<string, unknown> => {
  const last = fixture.mock.requests.at(-1);
  return last === undefined ? {} : sent(last);
};

describe('bridge: budgets', () => {
  it('a spent budget: 429 that clients do not try again, in the dialect; nothing is sent', async () => {
    await withBudget({ requests: 1 });
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
    const refused = await fixture.call(CHAT, BODY);
    expect(refused.status).toBe(429);
    expect(refused.headers['x-should-retry']).toBe('false');
    expect(refused.headers['retry-after']).toBeUndefined();
    expect(JSON.parse(refused.body)).toMatchObject({
      error: { code: 'budget_spent', message: expect.stringContaining('requests') },
    });
    const messages = await fixture.call('/v1/messages', BODY);
    expect([messages.status, messages.headers['x-should-retry']]).toEqual([429, 'false']);
    expect(JSON.parse(messages.body)).toMatchObject({ error: { type: 'rate_limit_error' } });
    expect(fixture.mock.requests).toHaveLength(1);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ requests: 1 });
  });

  it('the next window: Retry-After tells when', async () => {
    await withBudget({ requests: 1, windowMs: 100 * 24 * 3600 * 1000 });
    await fixture.call(CHAT, BODY);
    const refused = await fixture.call(CHAT, BODY);
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
    expect(refused.headers['x-should-retry']).toBe('false');
  });

  it('an answer is cut to what is left, in each field that limits it, and settled by what the upstream counts', async () => {
    await withBudget({ outputTokens: 12 }, [3, 5]);
    await fixture.call(CHAT, BODY);
    expect(lastSent()).toMatchObject({ max_tokens: 10 });
    const more = { ...BODY, max_completion_tokens: 1000, n_predict: -1 };
    await fixture.call(CHAT, more);
    expect(lastSent()).toMatchObject({ max_tokens: 7, max_completion_tokens: 7, n_predict: 7 });
    const { max_tokens: _, ...unlimited } = BODY;
    await fixture.call(CHAT, unlimited);
    expect(lastSent()).toMatchObject({ max_tokens: 2 });
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ inputTokens: 9, outputTokens: 15 });
    expect((await fixture.call(CHAT, BODY)).status).toBe(429);
  });

  it('several answers to one request share what is left', async () => {
    await withBudget({ outputTokens: 100 });
    await fixture.call(CHAT, { ...BODY, n: 4, max_tokens: 50 });
    expect(lastSent()).toMatchObject({ n: 4, max_tokens: 25 });
    await fixture.call('/v1/completions', { model: 'm1', prompt: ['a', 'b'], max_tokens: 90 });
    expect(lastSent()).toMatchObject({ max_tokens: 47 });
  });

  it('without a budget, and where the limit fits, the bytes pass unchanged', async () => {
    await withBudget({ outputTokens: 1000, inputTokens: 1000 });
    const text = JSON.stringify(BODY);
    await fixture.call(CHAT, text);
    expect(fixture.mock.requests.at(-1)?.body).toBe(text);
  });

  it('a translated request is limited, too', async () => {
    await withBudget({ outputTokens: 8 });
    await fixture.call('/v1/messages', { ...BODY, max_tokens: 500 });
    expect(lastSent()).toMatchObject({ max_tokens: 8 });
  });

  it('requests at once do not exceed it together: those that may fit later wait', async () => {
    fixture = await bridgeFixture({ policy: { budget: { outputTokens: 20 } } });
    const held: (() => void)[] = [];
    fixture.mock.answer((_, response) => held.push(() => sendJson(response, 200, answered(1, 10))));
    const calls = Array.from({ length: 5 }, () => fixture.call(CHAT, BODY));
    await expect.poll(() => held.length).toBe(2);
    for (const answer of held.splice(0)) answer();
    const statuses = (await Promise.all(calls)).map(({ status }) => status);
    expect(statuses.toSorted()).toEqual([200, 200, 429, 429, 429]);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ outputTokens: 20, requests: 2 });
  });

  it('a canceled stream counts what was passed on, and gives back the rest', async () => {
    fixture = await bridgeFixture({ policy: { budget: { outputTokens: 20 } } });
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.write(delta('one') + delta('two'));
    });
    const settled = fixture.nextUsage();
    const opened = fixture.open(CHAT, { ...BODY, stream: true });
    await opened.until(delta('two'));
    opened.abort();
    await settled;
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ outputTokens: 2, requests: 1 });
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.end(delta('x') + finish + usageEvent + done);
    });
    expect((await fixture.call(CHAT, { ...BODY, stream: true, max_tokens: 99 })).status).toBe(200);
    expect(lastSent()).toMatchObject({ max_tokens: 18 });
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ outputTokens: 9, requests: 2 });
  });

  it('a request that the upstream refuses uses no tokens; one that does not reach it, nothing', async () => {
    await withBudget({ inputTokens: 100, requests: 9 });
    fixture.mock.answer((_, response) => sendJson(response, 429, { error: 'busy' }));
    expect((await fixture.call(CHAT, BODY)).status).toBe(429);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ inputTokens: 0, requests: 1 });
    const away = { name: 'away', socketPath: join(fixture.dir, 'none'), models: ['m1'] };
    await fixture.close();
    fixture = await bridgeFixture({
      policy: { budget: { requests: 1 } },
      upstream: async () => away,
    });
    for (const _ of [1, 2]) expect((await fixture.call(CHAT, BODY)).status).toBe(503);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ requests: 0 });
  });

  it('a prompt larger than the budget is refused before it is sent', async () => {
    await withBudget({ inputTokens: 10 });
    const long = { ...BODY, messages: [{ role: 'user', content: 'x'.repeat(100) }] };
    expect(JSON.parse((await fixture.call(CHAT, long)).body)).toMatchObject({
      error: { code: 'budget_spent' },
    });
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
    expect(fixture.mock.requests).toHaveLength(1);
  });

  it('sandboxes that share an account share its budget, as forks do; what was used before is restored', async () => {
    await withBudget({ requests: 4 });
    const policy = { budget: { requests: 4 } };
    const account = { id: ACCOUNT };
    const socketPath = join(fixture.dir, 'fork.sock');
    await fixture.bridge.attach({ sandboxId: 'fork', socketPath, policy, account });
    const statuses: number[] = [];
    for (let i = 0; i < 3; i += 1) {
      for (const path of [fixture.socketPath, socketPath]) {
        statuses.push((await call(path, CHAT, BODY)).status);
      }
    }
    expect(statuses).toEqual([200, 200, 200, 200, 429, 429]);
    const used = fixture.bridge.budgetUse(ACCOUNT);
    await fixture.close();
    fixture = await bridgeFixture();
    const resumed = join(fixture.dir, 'resumed.sock');
    await fixture.bridge.attach({
      sandboxId: 'fork',
      socketPath: resumed,
      policy,
      account: { ...account, ...(used === null ? {} : { used }) },
    });
    expect((await call(resumed, CHAT, BODY)).status).toBe(429);
  });

  it('a guest that leaves while it waits for the budget reserves nothing', async () => {
    fixture = await bridgeFixture({ policy: { budget: { outputTokens: 10 } } });
    const held: (() => void)[] = [];
    fixture.mock.answer((_, response) => held.push(() => sendJson(response, 200, answered(1, 1))));
    const first = fixture.call(CHAT, BODY);
    await expect.poll(() => held.length).toBe(1);
    const leaving = open(fixture.socketPath, CHAT, BODY);
    await expect.poll(() => fixture.port.stats().inFlight).toBe(2);
    leaving.abort();
    await expect.poll(() => fixture.port.stats().inFlight).toBe(1);
    held[0]?.();
    expect((await first).status).toBe(200);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ outputTokens: 1, requests: 1 });
  });
});
