/** `models.toml` changes while a bridge serves: new servers, models and keys, without a restart. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { FakeClock } from '../../src/base/clock.ts';
import { readConfig } from '../../src/base/config.ts';
import type { Log } from '../../src/base/log.ts';
import { readModelsFile } from '../../src/host/runtime/model-servers/models-file.ts';
import { openServers } from '../../src/host/runtime/model-servers/servers.ts';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import {
  completion,
  delta,
  done,
  finish,
  type MockUpstream,
  sendJson,
  startEvents,
  startMockUpstream,
} from '../support/mock-upstream.ts';

const CHAT = '/v1/chat/completions';
const QUESTION = { model: 'm', messages: [{ role: 'user', content: 'hello' }] };

let cleanup: CleanupStack;
let dir: string;
let clock: FakeClock;
let logged: string[];
beforeEach(async () => {
  cleanup = new CleanupStack();
  dir = await mkdtemp(join(tmpdir(), 'nv-models-file-'));
  cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
  clock = new FakeClock();
  logged = [];
});
afterEach(() => cleanup.run());

const path = (): string => join(dir, 'models.toml');
const write = (toml: string): Promise<void> => writeFile(path(), toml);
/** Two polls: a change must last from one to the next. */
const pass = (): void => clock.advance(2_000);

async function mock(name: string): Promise<MockUpstream> {
  const server = await startMockUpstream();
  cleanup.push(name, () => server.close());
  server.answer((_, response) => sendJson(response, 200, completion(`from ${name}`)));
  return server;
}

async function bridge(): Promise<BridgeFixture & { readonly defaultModel: () => string | null }> {
  const config = readConfig({ NEUROVISOR_MODELS: path() });
  const note = (level: string) => (message: string, fields?: object) => {
    logged.push(`${level}: ${message} ${JSON.stringify(fields)}`);
  };
  const log: Log = { debug: () => undefined, info: note('info'), warn: note('warn'), error: note('error') };
  const reread = () => readModelsFile(config, {});
  const first = reread();
  if (first === null) throw new Error('no file');
  const place = { config, runDir: dir, cacheDir: dir };
  const servers = await openServers(first, { ...place, log, clock, reread });
  cleanup.push('servers', () => servers.close());
  const fixture = await bridgeFixture({ routes: servers.source(Promise.resolve(null)) });
  cleanup.push('bridge', () => fixture.close());
  return Object.assign(fixture, { defaultModel: () => servers.defaultModel });
}

const one = (server: MockUpstream, more = ''): string =>
  `[upstreams.a]\nurl = "${server.target.baseUrl}"\ndiscover = false\n${more}\n[models.m]\nupstream = "a"\n`;

const answerOf = (body: string): unknown => {
  const { choices, error } = JSON.parse(body) as {
    choices?: { message: { content: string } }[];
    error?: { code: string };
  };
  return error?.code ?? choices?.[0]?.message.content;
};

describe('bridge: models.toml changes', () => {
  it('the next request uses the new content: another address, other models, another default', async () => {
    const [before, after] = [await mock('before'), await mock('after')];
    await write(one(before));
    const { call, defaultModel } = await bridge();
    expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('from before');
    await write(`${one(after)}[models.n]\nupstream = "a"\n`.replace(/^/, 'default = "n"\n'));
    clock.advance(1_000);
    // An editor may still be writing.
    expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('from before');
    clock.advance(1_000);
    expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('from after');
    expect(answerOf((await call(CHAT, { ...QUESTION, model: 'n' })).body)).toBe('from after');
    expect(defaultModel()).toBe('n');
    expect(logged).toEqual([expect.stringMatching(/^info: models\.toml was read again .*"models":2/)]);
    await write(one(after).replace('models.m', 'models.other'));
    pass();
    expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('model_not_found');
  });

  it('a fault is logged once, and the previous content stays; the next valid content counts', async () => {
    const [before, after] = [await mock('before'), await mock('after')];
    await write(one(before));
    const { call } = await bridge();
    for (const broken of ['not TOML', 'not TOML ']) {
      await write(broken);
      pass();
      pass();
      expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('from before');
    }
    await rm(path());
    pass();
    expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('from before');
    expect(logged).toEqual([
      expect.stringMatching(/^warn: models\.toml has changed, but .*is not TOML/),
      expect.stringMatching(/^warn: models\.toml has changed, but .*does not exist/),
    ]);
    await write(one(after));
    pass();
    expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('from after');
  });

  it('a key that is replaced in its file is used by the next request; a skipped server gets it at once', async () => {
    const server = await mock('a');
    await writeFile(join(dir, 'key'), 'first', { mode: 0o600 });
    await write(one(server, 'key = { file = "key" }'));
    const { call } = await bridge();
    server.answer((request, response) => {
      const isValid = request.headers.authorization === 'Bearer second';
      if (isValid) sendJson(response, 200, completion('welcome'));
      else sendJson(response, 429, { error: { message: 'no' } }, { 'retry-after': '500' });
    });
    expect((await call(CHAT, QUESTION)).status).toBe(429);
    // Skipped: the server does not see this request.
    expect((await call(CHAT, QUESTION)).status).toBe(429);
    expect(server.requests).toHaveLength(1);
    await writeFile(join(dir, 'key'), 'second');
    pass();
    expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('welcome');
    expect(logged.join()).not.toMatch(/first|second/);
  });

  it('a new key file that appears after the line that names it is found without another change', async () => {
    const server = await mock('a');
    await write(one(server));
    const { call } = await bridge();
    await write(one(server, 'key = { file = "key" }'));
    pass();
    expect(logged).toEqual([expect.stringMatching(/^warn: .*key does not exist/)]);
    await writeFile(join(dir, 'key'), 'late', { mode: 0o600 });
    pass();
    await call(CHAT, QUESTION);
    expect(server.requests.at(-1)?.headers.authorization).toBe('Bearer late');
  });

  it.each([
    ['moves elsewhere does not follow it there', 'hosted = true', 'upstream_unreachable', 0],
    ['gets another address goes to that', '', 'from there', 1],
  ])('a request that waits while its server %s', async (_, more, expected, count) => {
    const [here, there] = [await mock('here'), await mock('there')];
    await write(one(here, 'concurrency = 1'));
    const { call } = await bridge();
    const arrived = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<void>();
    here.answer(async (__, response) => {
      arrived.resolve();
      await answer.promise;
      sendJson(response, 200, completion('from here'));
    });
    const first = call(CHAT, QUESTION);
    await arrived.promise;
    const waits = call(CHAT, QUESTION);
    // Requests after this one are answered later, so the other request waits by then.
    await call('/v1/models');
    await write(one(there, `concurrency = 1\n${more}`));
    pass();
    answer.resolve();
    expect(answerOf((await first).body)).toBe('from here');
    expect(answerOf((await waits).body)).toBe(expected);
    expect([here.requests.length, there.requests.length]).toEqual([1, count]);
  });

  it('a program prints the key for each request; a failure is an error without its output', async () => {
    const server = await mock('a');
    await write(one(server, 'key = { command = ["/bin/cat", "key"] }'));
    const { call } = await bridge();
    const failed = await call(CHAT, QUESTION);
    expect([failed.status, answerOf(failed.body)]).toEqual([503, 'upstream_unreachable']);
    expect(failed.body).not.toMatch(/cat|No such file/);
    await writeFile(join(dir, 'key'), 'told');
    clock.advance(5_000);
    await call(CHAT, QUESTION);
    expect(server.requests.map(({ headers }) => headers.authorization)).toEqual(['Bearer told']);
  });

  const keyed = (valid: () => string, server: MockUpstream): void =>
    server.answer(({ headers }, response) => {
      if (headers.authorization === `Bearer ${valid()}`) {
        sendJson(response, 200, completion('welcome'));
      } else sendJson(response, 401, { error: { message: `revoked: ${headers.authorization}` } });
    });

  it('a key that is revoked: 401 without the key, once for each request, until its program prints another', async () => {
    const server = await mock('a');
    await writeFile(join(dir, 'key'), 'sk-first');
    await write(one(server, 'key = { command = ["/bin/cat", "key"] }'));
    const { call } = await bridge();
    let valid = 'sk-first';
    keyed(() => valid, server);
    expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('welcome');
    valid = 'sk-second';
    for (const dialect of ['/v1/chat/completions', '/v1/messages', '/api/chat', '/v1/responses']) {
      const more = dialect === '/v1/messages' ? { max_tokens: 5 } : {};
      const { messages, model } = QUESTION;
      const body = dialect === '/v1/responses' ? { model, input: 'hello' } : { model, messages };
      const denied = await call(dialect, { ...body, ...more });
      expect([denied.status, denied.body.includes('sk-')]).toEqual([401, false]);
    }
    expect(server.requests).toHaveLength(5);
    await writeFile(join(dir, 'key'), 'sk-second');
    clock.advance(60_000);
    // The server's rejection of the old key triggers the request for a new one.
    expect((await call(CHAT, QUESTION)).status).toBe(401);
    expect(answerOf((await call(CHAT, QUESTION)).body)).toBe('welcome');
  });

  it.each([
    ['file', 'key = { file = "key" }'],
    ['program', 'key = { command = ["/bin/cat", "key"] }'],
  ])(
    'a replaced key of a %s: a stream continues, and a request that waits for its slot gets the new one',
    async (kind, key) => {
      const server = await mock('a');
      await writeFile(join(dir, 'key'), 'sk-first', { mode: 0o600 });
      await write(one(server, `concurrency = 1\n${key}`));
      const { call, open } = await bridge();
      const go = Promise.withResolvers<void>();
      server.answer(async (_, response) => {
        startEvents(response);
        response.write(delta('begun'));
        await go.promise;
        response.end(finish + done);
      });
      const streams = open(CHAT, { ...QUESTION, stream: true });
      await streams.until('begun');
      const waits = call(CHAT, QUESTION);
      await call('/v1/models');
      await writeFile(join(dir, 'key'), 'sk-second');
      if (kind === 'file') pass();
      // Long enough that every key is requested again before it is used.
      else clock.advance(600_000);
      keyed(() => 'sk-second', server);
      go.resolve();
      await streams.until('[DONE]');
      expect(answerOf((await waits).body)).toBe('welcome');
      expect(server.requests[0]?.headers.authorization).toBe('Bearer sk-first');
    },
  );

  it('an unchanged server keeps its known state', async () => {
    const [a, b] = [await mock('a'), await mock('b')];
    await write(one(a));
    const { call } = await bridge();
    a.answer((_, response) => sendJson(response, 429, {}, { 'retry-after': '500' }));
    await call(CHAT, QUESTION);
    await write(`${one(a)}[upstreams.b]\nurl = "${b.target.baseUrl}"\n`);
    pass();
    expect((await call(CHAT, QUESTION)).status).toBe(429);
    expect(a.requests).toHaveLength(1);
  });
});
