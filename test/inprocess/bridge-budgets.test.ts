/** Budgets of sandboxes at the bridge (B10, B23): refusals, requests that reach the upstream, and counts. */
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { type BudgetUse, HOST_ACCOUNT, type ModelBudget, tenantAccount } from '../../src/base/request/model-limits.ts';
import type { Price } from '../../src/inference/bridge/budget/price.ts';
import type { RoutedModel } from '../../src/inference/bridge/routing/route-table.ts';
import { type BridgeFixture, bridgeFixture, call, open } from '../support/bridge-fixture.ts';
import {
  delta,
  done,
  finish,
  type Recorded,
  sendJson,
  startEvents,
  startMockUpstream,
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

/** A budget of all sandboxes. */
const ofHost = (limits: ModelBudget, used: BudgetUse | null = null) => ({
  of: () => [{ account: HOST_ACCOUNT, limits }],
  used: new Map(used === null ? [] : [[HOST_ACCOUNT, used]]),
});

async function withBudget(budget: ModelBudget, used: [number, number] = [3, 5]): Promise<void> {
  fixture = await bridgeFixture({ policy: { budget } });
  fixture.mock.answer((_, response) => sendJson(response, 200, answered(...used)));
}

/** A table with the model `m`, whose routes have these names and prices, in order. */
async function priced(
  prices: Readonly<Record<string, Price | null | undefined>>,
  budget: ModelBudget,
): Promise<BridgeFixture> {
  const mock = await startMockUpstream();
  const server = { isHosted: false, answerWithinMs: null, discover: false };
  const target = () => Promise.resolve(mock.target);
  const fallbackOn = new Set(['5xx'] as const);
  const names = Object.keys(prices);
  const models = names.map((name, index): [string, RoutedModel] => {
    const price = prices[name];
    const route = { upstream: name, model: name, weight: 1 };
    return [
      index === 0 ? 'm' : name,
      {
        routes: [price === undefined ? route : { ...route, price }],
        fallback: index === 0 ? names.slice(1) : [],
        fallbackOn,
      },
    ];
  });
  const made = await bridgeFixture({
    policy: { budget },
    routes: { upstreams: names.map((name) => ({ name, target, ...server })), models: new Map(models) },
  });
  return {
    ...made,
    mock,
    close: async () => {
      await made.close();
      await mock.close();
    },
  };
}

const sentModel = (body: string): unknown => (JSON.parse(body) as { model: unknown }).model;
const sent = ({ body }: Recorded): Record<string, unknown> => JSON.parse(body) as Record<string, unknown>;
const lastSent = (): Record<string, unknown> => {
  const last = fixture.mock.requests.at(-1);
  return last === undefined ? {} : sent(last);
};

describe('bridge: budgets', () => {
  it('a spent budget: 429 that clients do not retry, in the dialect; nothing is sent', async () => {
    await withBudget({ requests: 1 });
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
    const refused = await fixture.call(CHAT, BODY);
    expect(refused.status).toBe(429);
    expect(refused.headers['x-should-retry']).toBe('false');
    expect(refused.headers['retry-after']).toBeUndefined();
    expect(JSON.parse(refused.body)).toMatchObject({
      error: { code: 'budget_spent', type: 'insufficient_quota', message: expect.stringContaining('requests') },
    });
    const messages = await fixture.call('/v1/messages', BODY);
    expect([messages.status, messages.headers['x-should-retry']]).toEqual([429, 'false']);
    expect(JSON.parse(messages.body)).toMatchObject({ error: { type: 'rate_limit_error' } });
    expect(fixture.mock.requests).toHaveLength(1);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ requests: 1 });
  });

  it('the next window: Retry-After says when', async () => {
    await withBudget({ requests: 1, windowMs: 100 * 24 * 3600 * 1000 });
    await fixture.call(CHAT, BODY);
    const refused = await fixture.call(CHAT, BODY);
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
    expect(refused.headers['x-should-retry']).toBe('false');
  });

  it('an answer is limited to the rest of the budget, in each field that limits it, and settled by the upstream’s count', async () => {
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

  it('several answers to one request share the rest of the budget', async () => {
    await withBudget({ outputTokens: 100 });
    await fixture.call(CHAT, { ...BODY, n: 4, max_tokens: 50 });
    expect(lastSent()).toMatchObject({ n: 4, max_tokens: 25 });
    await fixture.call('/v1/completions', { model: 'm1', prompt: ['a', 'b'], max_tokens: 90 });
    expect(lastSent()).toMatchObject({ max_tokens: 47 });
    const many = await fixture.call(CHAT, { ...BODY, n: 91 });
    expect(JSON.parse(many.body)).toMatchObject({ error: { code: 'budget_spent' } });
  });

  const CHAT_BODY = '"messages":[{"role":"user","content":"hello"}]';
  /** What servers may read otherwise than the bridge does. */
  const UNCLEAR = ['"128"', '"4096"', '1e400', '9007199254740993', 'true', '[4]', '1.5'];
  it.each([
    [CHAT, '"n":', '-1', CHAT_BODY],
    [CHAT, '"max_tokens":', '-1', CHAT_BODY],
    [CHAT, '"max_completion_tokens":', '-1', CHAT_BODY],
    [CHAT, '"n_predict":', '-3', CHAT_BODY],
    ['/v1/completions', '"best_of":', '0', '"prompt":"hello"'],
    ['/v1/responses', '"max_output_tokens":', '-1', '"input":"hello"'],
    ['/v1/messages', '"max_tokens":', '-1', CHAT_BODY],
    ['/api/chat', '"num_predict":', '-3', `${CHAT_BODY},"options":{"num_predict":1}`],
  ])('%s: refuses %s without a whole number in range, in the form of the API', async (path, member, tooSmall, rest) => {
    const name = member.replaceAll(/[":]/g, '');
    // Allowed fields pass unchecked, but a budget still reads these.
    fixture = await bridgeFixture({ policy: { budget: { outputTokens: 100 }, allowFields: [name] } });
    fixture.mock.answer((_, response) => sendJson(response, 200, answered(3, 5)));
    for (const value of [...UNCLEAR, tooSmall]) {
      const members = rest.includes(member)
        ? rest.replace(`${member}1`, `${member}${value}`)
        : `${rest},${member}${value}`;
      const refused = await fixture.call(path, `{"model":"m1",${members}}`);
      expect(refused.status, value).toBe(400);
      const message = expect.stringMatching(`^(options.)?${name}: must be a (whole )?number`);
      const forms: Readonly<Record<string, unknown>> = {
        '/v1/messages': { type: 'error', error: { type: 'invalid_request_error', message } },
        '/api/chat': { error: message },
      };
      const openai = { error: { message, type: 'invalid_request_error', param: name, code: 'invalid_value' } };
      expect(JSON.parse(refused.body), value).toEqual(forms[path] ?? openai);
    }
    expect(fixture.mock.requests).toEqual([]);
  });

  it('without a budget, and if the limit fits, the bytes pass unchanged', async () => {
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

  it('concurrent requests do not exceed it together: those that may fit later wait', async () => {
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

  it('a forgotten budget begins at 0', async () => {
    await withBudget({ outputTokens: 20 });
    await fixture.call(CHAT, BODY);
    fixture.bridge.forgetBudget(ACCOUNT);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toBeNull();
    await fixture.call(CHAT, BODY);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ requests: 1 });
  });

  it('a canceled stream counts the forwarded part, and releases the rest', async () => {
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

  it('a plain answer that is canceled before its counts arrive uses the whole reservation, at the price of its route', async () => {
    const price = { input: 0, output: 1_000_000, cachedInput: 0 };
    fixture = await priced({ only: price }, { outputTokens: 25, costNanoDollars: 1_000_000 });
    const asked = { ...BODY, model: 'm' };
    const leave = async (answer: Parameters<typeof fixture.mock.answer>[0]): Promise<void> => {
      fixture.mock.answer(answer);
      const settled = fixture.nextUsage();
      const arrived = fixture.mock.next();
      const opened = fixture.open(CHAT, asked);
      await arrived;
      if (answer !== silent) await opened.head;
      opened.abort();
      expect(await settled).toMatchObject({ outcome: 'cancelled' });
    };
    const silent = (): void => undefined;
    await leave(silent);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ outputTokens: 10, costNanoDollars: 10_000 });
    await leave((_, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.write('{"choices":[');
    });
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ outputTokens: 20, requests: 2 });
    fixture.mock.answer((_, response) => sendJson(response, 200, answered(1, 5)));
    expect((await fixture.call(CHAT, asked)).status).toBe(200);
    expect(lastSent()).toMatchObject({ max_tokens: 5 });
    expect((await fixture.call(CHAT, asked)).status).toBe(429);
  });

  it('a request that the upstream refuses uses no tokens; one that does not reach it uses nothing', async () => {
    await withBudget({ inputTokens: 100, requests: 9 });
    fixture.mock.answer((_, response) => sendJson(response, 429, { error: 'busy' }));
    expect((await fixture.call(CHAT, BODY)).status).toBe(429);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ inputTokens: 0, requests: 1 });
    const away = { name: 'away', socketPath: join(fixture.dir, 'none'), models: ['m1'] };
    await fixture.close();
    fixture = await bridgeFixture({ policy: { budget: { requests: 1 } }, upstream: async () => away });
    for (const _ of [1, 2]) expect((await fixture.call(CHAT, BODY)).status).toBe(503);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ requests: 0 });
  });

  it('a prompt larger than the budget is refused before it is sent', async () => {
    await withBudget({ inputTokens: 10 });
    const long = { ...BODY, messages: [{ role: 'user', content: 'x'.repeat(100) }] };
    expect(JSON.parse((await fixture.call(CHAT, long)).body)).toMatchObject({ error: { code: 'budget_spent' } });
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
    expect(fixture.mock.requests).toHaveLength(1);
  });

  it('a cost limit: the answer is limited to the rest, and charged at the price of the route that answered', async () => {
    // Dollars per million tokens: 1 and 10; the fallback costs more. 3 prompt tokens, 1 of them cached, and 5 answer
    // tokens.
    const cheap = { input: 1_000_000, output: 10_000_000, cachedInput: 100_000 };
    const dear = { input: 2_000_000, output: 20_000_000, cachedInput: 2_000_000 };
    fixture = await priced({ cheap, dear }, { costNanoDollars: 500_000 });
    fixture.mock.answer((_, response) => {
      const { usage, ...answer } = answered(3, 5);
      const cached = { prompt_tokens_details: { cached_tokens: 1 } };
      sendJson(response, 200, { ...answer, usage: { ...usage, ...cached } });
    });
    await fixture.call(CHAT, { ...BODY, model: 'm', max_tokens: 100 });
    // 2 prompt tokens (estimated) at 2 leave 496 millionths for 24 answer tokens, at 20.
    expect(lastSent()).toMatchObject({ model: 'cheap', max_tokens: 24 });
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ costNanoDollars: 52_100 });
    fixture.mock.answer(({ body }, response) => {
      if (sentModel(body) === 'cheap') sendJson(response, 503, {});
      else sendJson(response, 200, answered(3, 5));
    });
    await fixture.call(CHAT, { ...BODY, model: 'm' });
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ costNanoDollars: 158_100 });
    const large = { ...BODY, model: 'm', messages: [{ role: 'user', content: 'x'.repeat(2000) }] };
    const refused = await fixture.call(CHAT, large);
    expect([refused.status, refused.headers['x-should-retry']]).toEqual([429, 'false']);
    expect(JSON.parse(refused.body)).toMatchObject({
      error: { code: 'budget_spent', message: expect.stringContaining('for cost is spent') },
    });
    expect(fixture.mock.requests).toHaveLength(3);
  });

  it('a cost limit: a route with an unknown price gets no request; a free one is not limited', async () => {
    fixture = await priced({ free: undefined, unknown: null }, { costNanoDollars: 1 });
    fixture.mock.answer((_, response) => sendJson(response, 200, answered(3, 5)));
    const text = JSON.stringify({ ...BODY, model: 'm' });
    for (const _ of [1, 2, 3]) expect((await fixture.call(CHAT, text)).status).toBe(200);
    expect(fixture.mock.requests.map(({ body }) => sentModel(body))).toEqual(Array.from({ length: 3 }, () => 'free'));
    expect(sent(fixture.mock.requests[0] as Recorded)).toMatchObject({ max_tokens: 10 });
    fixture.mock.answer((_, response) => sendJson(response, 503, {}));
    expect((await fixture.call(CHAT, text)).status).toBe(503);
    expect(fixture.mock.requests).toHaveLength(4);
    await fixture.close();
    fixture = await priced({ unknown: null }, { costNanoDollars: 1_000_000 });
    const refused = await fixture.call(CHAT, text);
    expect([refused.status, JSON.parse(refused.body)]).toMatchObject([
      403,
      { error: { code: 'model_unpriced', param: 'model' } },
    ]);
    expect(fixture.mock.requests).toHaveLength(0);
  });

  it('a cost limit without a table: a server of this host is free, another one gets no request', async () => {
    await withBudget({ costNanoDollars: 1 });
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ requests: 1, costNanoDollars: 0 });
    await fixture.close();
    const away = { name: 'away', baseUrl: 'https://models.invalid/v1', models: ['m1'] };
    const policy = { allowModels: ['m1'], budget: { costNanoDollars: 1 } };
    fixture = await bridgeFixture({ policy, upstream: async () => away });
    const refused = await fixture.call(CHAT, BODY);
    expect(JSON.parse(refused.body)).toMatchObject({ error: { code: 'model_unpriced' } });
  });

  it('sandboxes that share an account share its budget, as forks do; earlier usage is restored', async () => {
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

  it('setPolicy: a new budget applies at once to all that share it, and usage stays', async () => {
    await withBudget({ requests: 2 });
    const policy = { budget: { requests: 2 } };
    const fork = join(fixture.dir, 'fork.sock');
    const account = { id: ACCOUNT };
    await fixture.bridge.attach({ sandboxId: 'fork', socketPath: fork, policy, account });
    const status = async (path: string) => (await call(path, CHAT, BODY)).status;
    expect([await status(fork), await status(fork), await status(fork)]).toEqual([200, 200, 429]);
    fixture.port.setPolicy({ budget: { requests: 3, windowMs: 100 * 24 * 3600 * 1000 } });
    expect([await status(fork), await status(fixture.socketPath)]).toEqual([200, 429]);
    fixture.port.setPolicy({ budget: { requests: 1 } });
    expect(await status(fork)).toBe(429);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({ requests: 3, window: 0 });
  });

  it('setPolicy: a request that waits for the budget continues once the rest is enough', async () => {
    await withBudget({ outputTokens: 20 });
    const held: (() => void)[] = [];
    fixture.mock.answer((_, response) => held.push(() => sendJson(response, 200, answered(1, 1))));
    const calls = Array.from({ length: 3 }, () => fixture.call(CHAT, BODY));
    await expect.poll(() => held.length).toBe(2);
    fixture.port.setPolicy({ budget: { outputTokens: 30 } });
    await expect.poll(() => held.length).toBe(3);
    for (const answer of held) answer();
    expect((await Promise.all(calls)).map(({ status }) => status)).toEqual([200, 200, 200]);
  });

  it('setPolicy: a cost limit applies to a waiting request whose route has no price', async () => {
    fixture = await priced({ unknown: null }, { requests: 1 });
    const held: (() => void)[] = [];
    fixture.mock.answer((_, response) => held.push(() => sendJson(response, 200, answered(1, 1))));
    const first = fixture.call(CHAT, { ...BODY, model: 'm' });
    await expect.poll(() => held.length).toBe(1);
    const waiting = fixture.call(CHAT, { ...BODY, model: 'm' });
    await expect.poll(() => fixture.port.stats().inFlight).toBe(2);
    fixture.port.setPolicy({ budget: { requests: 9, costNanoDollars: 1000 } });
    const refused = await waiting;
    expect([refused.status, JSON.parse(refused.body)]).toMatchObject([403, { error: { code: 'model_unpriced' } }]);
    held[0]?.();
    expect((await first).status).toBe(200);
    expect(fixture.mock.requests).toHaveLength(1);
  });

  it('attach: a budget that was changed while the sandbox was paused applies after its resume, in windows of any length', async () => {
    const DAY_MS = 24 * 3600 * 1000;
    await withBudget({ requests: 9, windowMs: 100 * DAY_MS });
    const status = async (path: string) => (await call(path, CHAT, BODY)).status;
    for (const _ of [1, 2]) expect(await status(fixture.socketPath)).toBe(200);
    await fixture.port.close();
    const resume = async (name: string, budget: ModelBudget): Promise<string> => {
      const used = fixture.bridge.budgetUse(ACCOUNT) ?? kept;
      const account = { id: ACCOUNT, ...(used == null ? {} : { used }) };
      const socketPath = join(fixture.dir, name);
      await fixture.bridge.attach({ sandboxId: name, socketPath, policy: { budget }, account });
      return socketPath;
    };
    let kept = fixture.bridge.budgetUse(ACCOUNT);
    expect(await status(await resume('same', { requests: 2, windowMs: 200 * DAY_MS }))).toBe(429);
    // Another daemon, longer and shorter windows.
    for (const windowMs of [undefined, 50 * DAY_MS, 150 * DAY_MS]) {
      kept = fixture.bridge.budgetUse(ACCOUNT);
      await fixture.close();
      fixture = await bridgeFixture();
      fixture.mock.answer((_, response) => sendJson(response, 200, answered(3, 5)));
      const socketPath = await resume('later', { requests: 2, ...(windowMs === undefined ? {} : { windowMs }) });
      expect(await status(socketPath)).toBe(429);
      expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject({
        requests: 2,
        window: windowMs === undefined ? 0 : Math.floor(Date.now() / windowMs),
      });
    }
  });

  it('the budget of the host: all sandboxes together, in addition to their own; the error names only the spent one', async () => {
    const limits = { requests: 3, outputTokens: 40, windowMs: 100 * 24 * 3600 * 1000 };
    fixture = await bridgeFixture({ policy: { budget: { requests: 1 } }, sharedBudgets: ofHost(limits) });
    fixture.mock.answer((_, response) => sendJson(response, 200, answered(3, 5)));
    const other = join(fixture.dir, 'other.sock');
    await fixture.bridge.attach({ sandboxId: 'other', socketPath: other });
    const messageOf = ({ body }: { body: string }): string =>
      (JSON.parse(body) as { error: { message: string } }).error.message;
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
    const own = await fixture.call(CHAT, BODY);
    expect(messageOf(own)).toContain('The budget of this sandbox for requests is spent');
    expect(messageOf(own)).toContain('(1 of 1 used)');
    // The refused request used nothing of the host's budget.
    expect((await call(other, CHAT, BODY)).status).toBe(200);
    const { max_tokens: _, ...unlimited } = BODY;
    expect((await call(other, CHAT, unlimited)).status).toBe(200);
    expect(lastSent()).toMatchObject({ max_tokens: 30 });
    const refused = await call(other, CHAT, BODY);
    expect([refused.status, refused.headers['x-should-retry']]).toEqual([429, 'false']);
    expect(messageOf(refused)).toMatch(
      /^The budget of all sandboxes of this host for requests is spent, or too small for this request\. It begins anew in \d+ s\.$/,
    );
    const used = fixture.bridge.budgetUse(HOST_ACCOUNT);
    expect(used).toMatchObject({ inputTokens: 9, outputTokens: 15, requests: 3 });
    await fixture.close();
    // After a restart.
    fixture = await bridgeFixture({ sharedBudgets: ofHost(limits, used) });
    expect((await fixture.call(CHAT, BODY)).status).toBe(429);
  });

  it('the budget of the host: concurrent requests of several sandboxes do not exceed it', async () => {
    const limits = { outputTokens: 20, windowMs: 100 * 24 * 3600 * 1000 };
    fixture = await bridgeFixture({ sharedBudgets: ofHost(limits) });
    const held: (() => void)[] = [];
    fixture.mock.answer((_, response) => held.push(() => sendJson(response, 200, answered(1, 10))));
    const other = join(fixture.dir, 'other.sock');
    await fixture.bridge.attach({ sandboxId: 'other', socketPath: other });
    const calls = [fixture.socketPath, other, fixture.socketPath, other].map((path) => call(path, CHAT, BODY));
    await expect.poll(() => held.length).toBe(2);
    for (const answer of held.splice(0)) answer();
    const statuses = (await Promise.all(calls)).map(({ status }) => status);
    expect(statuses.toSorted()).toEqual([200, 200, 429, 429]);
    expect(fixture.mock.requests).toHaveLength(2);
  });

  it('the budget of the host: a sandbox that requests an unlimited answer leaves the others their share', async () => {
    const limits = { outputTokens: 100_000, windowMs: 100 * 24 * 3600 * 1000 };
    fixture = await bridgeFixture({ sharedBudgets: ofHost(limits) });
    const held: (() => void)[] = [];
    fixture.mock.answer((_, response) => held.push(() => sendJson(response, 200, answered(1, 10))));
    const greedy = fixture.call(CHAT, { ...BODY, max_tokens: 1e12 });
    await expect.poll(() => held.length).toBe(1);
    expect(lastSent()).toMatchObject({ max_tokens: 50_000 });
    const other = join(fixture.dir, 'other.sock');
    await fixture.bridge.attach({ sandboxId: 'other', socketPath: other });
    const modest = call(other, CHAT, { ...BODY, max_tokens: 20_000 });
    await expect.poll(() => held.length).toBe(2);
    expect(lastSent()).toMatchObject({ max_tokens: 20_000 });
    for (const answer of held) answer();
    expect([(await greedy).status, (await modest).status]).toEqual([200, 200]);
    const tooMany = await fixture.call(CHAT, { ...BODY, n: 100_000 });
    expect(JSON.parse(tooMany.body)).toMatchObject({ error: { code: 'budget_spent' } });
  });

  it('the budget of a tenant: its sandboxes together, not those of others; the error names the spent one', async () => {
    const limits = { requests: 2, windowMs: 100 * 24 * 3600 * 1000 };
    fixture = await bridgeFixture({
      tenantOf: (id) => (id === 'other' ? null : 'acme'),
      sharedBudgets: {
        of: (tenant) => (tenant === null ? [] : [{ account: tenantAccount(tenant), limits }]),
        used: new Map(),
      },
    });
    fixture.mock.answer((_, response) => sendJson(response, 200, answered(3, 5)));
    const [second, other] = ['second', 'other'].map((name) => join(fixture.dir, `${name}.sock`));
    for (const [sandboxId, socketPath = ''] of [
      ['second', second],
      ['other', other],
    ] as const) {
      await fixture.bridge.attach({ sandboxId, socketPath });
    }
    const statusOf = async (path = ''): Promise<number> => (await call(path, CHAT, BODY)).status;
    expect(await statusOf(fixture.socketPath)).toBe(200);
    expect(await statusOf(second)).toBe(200);
    const refused = await fixture.call(CHAT, BODY);
    expect(refused.status).toBe(429);
    expect(refused.body).toContain("The budget of all sandboxes of this sandbox's owner for requests");
    expect(await statusOf(other)).toBe(200);
    expect(fixture.bridge.budgetUse(tenantAccount('acme'))).toMatchObject({ requests: 2, outputTokens: 10 });
  });

  it('the budget of a tenant: a plain answer that is canceled uses the whole reservation', async () => {
    const limits = { outputTokens: 20, windowMs: 100 * 24 * 3600 * 1000 };
    fixture = await bridgeFixture({
      tenantOf: () => 'acme',
      sharedBudgets: { of: () => [{ account: tenantAccount('acme'), limits }], used: new Map() },
    });
    let isAsked = false;
    fixture.mock.answer(() => {
      isAsked = true;
    });
    const leaving = open(fixture.socketPath, CHAT, BODY);
    await expect.poll(() => isAsked).toBe(true);
    const settled = fixture.nextUsage();
    leaving.abort();
    await settled;
    expect(fixture.bridge.budgetUse(tenantAccount('acme'))?.outputTokens).toBe(10);
  });

  it('a shared budget: a change applies at once, also to waiting requests, and resets no usage', async () => {
    const windowMs = 100 * 24 * 3600 * 1000;
    let limits: ModelBudget | null = { outputTokens: 10, windowMs };
    fixture = await bridgeFixture({
      sharedBudgets: { of: () => (limits === null ? [] : [{ account: HOST_ACCOUNT, limits }]), used: new Map() },
    });
    const held: (() => void)[] = [];
    fixture.mock.answer((_, response) => held.push(() => sendJson(response, 200, answered(1, 10))));
    const first = fixture.call(CHAT, BODY);
    await expect.poll(() => held.length).toBe(1);
    const second = fixture.call(CHAT, BODY);
    await expect.poll(() => fixture.port.stats().inFlight).toBe(2);
    expect(held).toHaveLength(1);
    limits = { outputTokens: 20, windowMs };
    await expect.poll(() => held.length, { timeout: 10_000 }).toBe(2);
    for (const answer of held.splice(0)) answer();
    expect([(await first).status, (await second).status]).toEqual([200, 200]);
    expect((await fixture.call(CHAT, BODY)).status).toBe(429);
    limits = null;
    const free = fixture.call(CHAT, BODY);
    await expect.poll(() => held.length).toBe(1);
    held[0]?.();
    expect((await free).status).toBe(200);
    limits = { outputTokens: 25, windowMs: 2 * windowMs };
    const cut = fixture.call(CHAT, BODY);
    await expect.poll(() => held.length).toBe(2);
    expect(lastSent()).toMatchObject({ max_tokens: 5 });
    held[1]?.();
    await cut;
  });

  it('the budget of the host: with a cost limit, a model without a price is refused to all', async () => {
    const away = { name: 'away', baseUrl: 'https://models.invalid/v1', models: ['m1'] };
    fixture = await bridgeFixture({
      policy: { allowModels: ['m1'] },
      upstream: async () => away,
      sharedBudgets: ofHost({ costNanoDollars: 1, windowMs: 1000 }),
    });
    const refused = await fixture.call(CHAT, BODY);
    expect(JSON.parse(refused.body)).toMatchObject({ error: { code: 'model_unpriced' } });
  });

  it('a guest that disconnects while it waits for the budget reserves nothing', async () => {
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
