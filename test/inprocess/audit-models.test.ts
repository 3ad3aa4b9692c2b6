/** The log of model requests, written by a real bridge, and `neurovisor audit verify`. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { AuditLog } from '../../src/api/tenants/audit.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { REFUSAL_RATE } from '../../src/inference/bridge/record/port-records.ts';
import { Player } from '../../src/inference/bridge/tape/player.ts';
import { Recorder } from '../../src/inference/bridge/tape/recorder.ts';
import { type AuditedBridge, auditedBridge } from '../support/audited-bridge.ts';
import { cli } from '../support/cli.ts';
import { sendAnswer } from '../support/completions.ts';
import { sendMessage } from '../support/messages.ts';

let world: AuditedBridge | undefined;
afterEach(async () => {
  await world?.close();
  world = undefined;
});

const verify = async (home: string, ...args: string[]) =>
  await cli(['audit', 'verify', ...args], { env: { NEUROVISOR_HOME: home } }).result;

const messages = [{ role: 'user', content: 'SECRET-PROMPT' }];
const CALLS = [
  { id: 'call_1', name: 'read_file', arguments: '{"path":"SECRET-PATH"}' },
  { id: 'call_2', name: 'read_file', arguments: '{}' },
  { id: 'call_3', name: `${'x'.repeat(80)}\u0007`, arguments: '{}' },
];

it('has caller, amounts and times, not contents; verify finds a changed record', async () => {
  world = await auditedBridge();
  const { home, fixture, upstream } = world;
  const calls = await AuditLog.open({ homeDir: home, clock: systemClock, log: silentLog });
  const caller = { tenant: null, key: 'socket' };
  calls.note({ caller, call: 'POST /v1/sandboxes', target: null, status: 201, ms: 1 });
  await calls[Symbol.asyncDispose]();
  upstream.answer(({ body }, response) => sendAnswer(body, response, { text: 'hello' }));
  for (let n = 0; n < 3; n += 1) {
    await fixture.call('/v1/chat/completions', { model: 'm1', messages });
  }
  const [first] = await world.records(3);
  await world.end();
  const text = await world.text();
  expect(text).not.toMatch(/SECRET|hello|127\.0\.0\.1/);
  expect(first).toMatchObject({
    tenant: 'acme',
    key: 'sandbox',
    call: 'MODEL chat',
    target: 'sandbox-a',
    status: 200,
    model: {
      name: 'm1',
      promptTokens: 11,
      completionTokens: 7,
      estimated: false,
      outcome: 'ok',
      dialect: 'openai',
      upstream: 'shop',
      upstreamModel: 'shop-m1',
      traceId: null,
      // 7 tokens at 1 µ$, 4 from the cache for free, 7 at 2 µ$.
      costNanoDollars: 21_000,
      queueMs: expect.any(Number),
      firstByteMs: expect.any(Number),
    },
  });
  expect(first?.model).not.toHaveProperty('tools');
  const { status, stdout } = await verify(home, '-o', 'json');
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({
    ok: true,
    records: 1,
    models: { records: 0 },
    tenants: [
      {
        tenant: 'acme',
        records: 0,
        models: { records: 3, firstAt: expect.stringMatching(/^2\d{3}-/), lastSeq: 3, problems: [] },
      },
    ],
  });

  const path = world.path('models');
  await writeFile(path, text.replace('"costNanoDollars":21000', '"costNanoDollars":21'));
  const changed = await verify(home);
  expect(changed.status).toBe(1);
  expect(changed.stdout).toContain(`${path} line 1: it was changed`);
  await writeFile(path, text.split('\n').slice(0, 2).join('\n'));
  expect((await verify(home)).stdout).toContain('records 3 to 3 are missing at the end');
});

/** A tool in the form of this path's requests. */
function toolOf(path: string, name: string): object {
  const schema = { type: 'object' };
  if (path === '/v1/messages') return { name, input_schema: schema };
  const parameters = schema;
  if (path === '/v1/responses') return { type: 'function', name, parameters };
  return { type: 'function', function: { name, parameters } };
}

it.each([
  ['/v1/chat/completions', 'openai', 'openai'],
  ['/v1/responses', 'openai', 'responses'],
  ['/v1/messages', 'openai', 'anthropic'],
  ['/api/chat', 'openai', 'ollama'],
  ['/v1/messages', 'anthropic', 'anthropic'],
  ['/v1/chat/completions', 'anthropic', 'openai'],
] as const)('%s to an upstream of %s: names the dialect and the tools called', async (path, api, dialect) => {
  world = await auditedBridge({ api });
  const send = api === 'openai' ? sendAnswer : sendMessage;
  world.upstream.answer(({ body }, response) => send(body, response, { calls: CALLS }));
  const tools = [...new Set(CALLS.map(({ name }) => name))].map((name) => toolOf(path, name));
  for (const stream of [false, true]) {
    const conversation = path === '/v1/responses' ? { input: 'hi' } : { messages };
    const limit = path === '/v1/messages' ? { max_tokens: 50 } : {};
    const body = { model: 'm1', stream, ...conversation, ...limit, tools };
    const answered = await world.fixture.call(path, body);
    expect(answered.status, answered.body).toBe(200);
  }
  const records = await world.records(2);
  for (const [index, { model }] of records.entries()) {
    expect(model).toMatchObject({
      dialect,
      stream: index === 1,
      outcome: 'ok',
      tools: ['read_file', 'x'.repeat(64)],
      toolCalls: 3,
    });
  }
  expect(await world.text()).not.toContain('SECRET');
});

it('has requests that the bridge refused, rate-limited, and counts the omitted ones', async () => {
  world = await auditedBridge({ policy: { budget: { requests: 1 } } });
  const { fixture } = world;
  const ask = (model: string, more: object = {}) => fixture.call('/v1/chat/completions', { model, messages, ...more });
  await ask('m1');
  expect((await ask('hosted')).status).toBe(403);
  expect((await ask('m1', { mystery: 1 })).status).toBe(400);
  const more = REFUSAL_RATE.size + 20;
  for (let n = 0; n < more; n += 1) expect((await ask('m1')).status).toBe(429);
  await world.end();
  const records = await world.records(REFUSAL_RATE.size + 2);
  expect(records.slice(0, 4)).toMatchObject([
    { status: 200, model: { outcome: 'ok' } },
    { status: 403, model: { name: 'hosted', outcome: 'refused', refusal: 'model_hosted' } },
    { status: 400, model: { outcome: 'refused', refusal: 'field_refused' } },
    { status: 429, model: { name: 'm1', outcome: 'refused', refusal: 'budget_spent' } },
  ]);
  // The rate refills meanwhile, so a few more may have been recorded.
  const refused = records.slice(1).filter(({ model }) => model?.refusal !== 'left_out');
  const leftOut = records.reduce((sum, { model }) => sum + (model?.leftOut ?? 0), 0);
  expect(refused.length + leftOut).toBe(more + 2);
  expect(leftOut).toBeGreaterThan(0);
  expect(refused.length).toBeLessThan(more);
});

it('a home of an older daemon has no such log', async () => {
  const home = await mkdtemp(join(tmpdir(), 'nv-audit-'));
  const log = await AuditLog.open({ homeDir: home, clock: systemClock, log: silentLog });
  const caller = { tenant: null, key: 'socket' };
  log.note({ caller, call: 'POST /v1/sandboxes', target: null, status: 201, ms: 1 });
  await log[Symbol.asyncDispose]();
  const { status, stdout } = await verify(home, '-o', 'json');
  expect([status, JSON.parse(stdout)]).toMatchObject([0, { ok: true, records: 1, models: null }]);
  await rm(home, { recursive: true });
});

it('verify tells which records went with the oldest files', async () => {
  const homeDir = await mkdtemp(join(tmpdir(), 'nv-audit-'));
  const limits = { fileBytesMax: 1, filesMax: 2 };
  const log = await AuditLog.open({ homeDir, clock: systemClock, log: silentLog, limits });
  for (let n = 0; n < 6; n += 1) {
    log.note({ caller: { tenant: null, key: 'k' }, call: 'POST /x', target: null, status: 200, ms: 1 });
    await log.flush();
  }
  await log[Symbol.asyncDispose]();
  const { status, stdout } = await verify(homeDir);
  expect([status, stdout.split('\n').slice(0, 2)]).toEqual([
    0,
    ['3 records, 4 to 6: unchanged', '1 to 3: removed with the oldest files'],
  ]);
  await rm(homeDir, { recursive: true });
});

it('a cached answer names its first upstream and costs nothing', async () => {
  world = await auditedBridge({ policy: { cache: { ttlMs: 60_000 } } });
  world.upstream.answer(({ body }, response) => sendAnswer(body, response, { text: 'hello' }));
  for (let n = 0; n < 2; n += 1) {
    await world.fixture.call('/v1/chat/completions', { model: 'm1', messages, temperature: 0 });
  }
  const [first, again] = await world.records(2);
  expect(first?.model?.costNanoDollars).toBe(21_000);
  expect(first?.model).not.toHaveProperty('cached');
  expect(again?.model).toMatchObject({ cached: true, upstream: 'shop', costNanoDollars: 0 });
});

it('an answer of a cassette names no upstream and costs nothing; a recorded one does', async () => {
  const tape = new Recorder();
  world = await auditedBridge({ tape });
  world.upstream.answer(({ body }, response) => sendAnswer(body, response, { text: 'hello' }));
  await world.fixture.call('/v1/chat/completions', { model: 'm1', messages });
  const [recorded] = await world.records(1);
  expect(recorded?.model).toMatchObject({ upstream: 'shop', costNanoDollars: 21_000 });
  expect(recorded?.model).not.toHaveProperty('replayed');
  await world.end();
  await world.close();

  const player = new Player({ defaultModel: 'm1', exchanges: tape.exchanges() });
  world = await auditedBridge({ tape: player });
  await world.fixture.call('/v1/chat/completions', { model: 'm1', messages });
  const [played] = await world.records(1);
  expect(world.upstream.requests).toHaveLength(0);
  expect(played?.model).toMatchObject({ replayed: true, upstream: null, upstreamModel: 'shop-m1', costNanoDollars: 0 });
  const env = { NEUROVISOR_HOME: world.home };
  const { stdout } = await cli(['audit', 'ls'], { env }).result;
  expect(stdout).toContain('from a cassette');
});
