/** The bridge over real sockets, with a scripted upstream. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { CodedError } from '../../src/base/errors.ts';
import { detectUpstream, probeUpstreams } from '../../src/inference/bridge/upstream/detect.ts';
import { type BridgeFixture, bridgeFixture, call } from '../support/bridge-fixture.ts';
import {
  completion,
  delta,
  done,
  finish,
  sendJson,
  startEvents,
  startMockUpstream,
  usageEvent,
} from '../support/mock-upstream.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const CHAT = '/v1/chat/completions';
const chat = (more: Record<string, unknown> = {}) => ({
  model: 'm1',
  messages: [{ role: 'user', content: 'hello' }],
  ...more,
});
const errorOf = (body: string) => (JSON.parse(body) as { error: Record<string, unknown> }).error;

describe('bridge: requests', () => {
  it('forwards a body unchanged when the policy changes nothing', async () => {
    fixture = await bridgeFixture();
    const text = '{ "seed": 18446744073709551615,"model":"m1",\n"messages":[],"top_p":0.50 }';
    const answer = await fixture.call(CHAT, text, { 'content-type': 'text/plain' });
    expect(answer).toMatchObject({ status: 200, broken: false });
    expect(JSON.parse(answer.body)).toEqual(completion('hello'));
    expect(fixture.mock.requests[0]).toMatchObject({ method: 'POST', path: CHAT, body: text });
    expect(fixture.mock.requests[0]?.headers['content-type']).toBe('application/json');
  });

  it.each(['/v1/completions', '/completions'])('serves %s', async (path) => {
    fixture = await bridgeFixture();
    expect((await fixture.call(path, { model: 'm1', prompt: 'x' })).status).toBe(200);
    expect(fixture.mock.requests[0]?.path).toBe('/v1/completions');
  });

  it('forwards embeddings as the SDKs request them: base64 and token ids', async () => {
    fixture = await bridgeFixture();
    const embedding = { data: [{ embedding: 'AAAA' }], usage: { prompt_tokens: 4 } };
    fixture.mock.answer((_, response) => sendJson(response, 200, embedding));
    const body = JSON.stringify({ model: 'm1', input: [[1, 2], [3]], encoding_format: 'base64' });
    const settled = fixture.nextUsage();
    const answer = await fixture.call('/v1/embeddings', body);
    expect(JSON.parse(answer.body)).toEqual(embedding);
    expect(fixture.mock.requests[0]?.body).toBe(body);
    expect(await settled).toMatchObject({ promptTokens: 4, completionTokens: 0, estimated: false });
  });

  it('replaces the guest’s credentials with the host’s key (S13, B1)', async () => {
    fixture = await bridgeFixture({ apiKey: 'sk-host-secret' });
    await fixture.call(CHAT, chat(), {
      authorization: 'Bearer sk-guest',
      'x-api-key': 'sk-guest',
      cookie: 'a=b',
      'x-neurovisor-sandbox': 'sandbox-b',
      'openai-organization': 'org-other',
      traceparent: '00-1-2-01',
    });
    const headers = fixture.mock.requests[0]?.headers ?? {};
    expect(Object.keys(headers).sort()).toEqual([
      'accept-encoding',
      'authorization',
      'connection',
      'content-length',
      'content-type',
      'host',
      'traceparent',
      'user-agent',
    ]);
    expect(headers['authorization']).toBe('Bearer sk-host-secret');
    expect(JSON.stringify(headers)).not.toContain('guest');
  });

  it('identifies the caller by its socket, whatever the request claims (R-IPC-8)', async () => {
    fixture = await bridgeFixture();
    const socketPath = join(fixture.dir, 'w_1025');
    await fixture.bridge.attach({ sandboxId: 'sandbox-b', socketPath });
    const spoof = { 'x-sandbox-id': 'sandbox-a', host: 'sandbox-a' };
    await call(socketPath, CHAT, chat({ user: 'sandbox-a' }), spoof);
    await fixture.call(CHAT, chat());
    expect(fixture.usage.map((record) => record.sandboxId)).toEqual(['sandbox-b', 'sandbox-a']);
  });

  it('refuses remote media and provider tools before the upstream gets the request', async () => {
    fixture = await bridgeFixture();
    const url = 'http://169.254.169.254/latest/';
    const part = { type: 'image_url', image_url: { url } };
    const media = await fixture.call(CHAT, chat({ messages: [{ role: 'user', content: [part] }] }));
    expect([media.status, errorOf(media.body)['code']]).toEqual([400, 'remote_media_refused']);
    const tool = await fixture.call(CHAT, chat({ tools: [{ type: 'web_search' }] }));
    expect([tool.status, errorOf(tool.body)['code']]).toEqual([400, 'provider_tool_refused']);
    expect(fixture.mock.requests).toHaveLength(0);
  });

  it('reaches an upstream on a unix socket', async () => {
    const unix = { socketPath: '' };
    fixture = await bridgeFixture({ upstream: () => Promise.resolve({ name: 'unix', ...unix }) });
    unix.socketPath = join(fixture.dir, 'llama.sock');
    const mock = await startMockUpstream(unix);
    expect((await fixture.call(CHAT, chat())).status).toBe(200);
    expect(mock.requests[0]?.path).toBe(CHAT);
    await mock.close();
  });
});

describe('bridge: models', () => {
  it('lists allowed models and aliases', async () => {
    const policy = { allowModels: ['m1'], aliases: { fast: 'm2' } };
    fixture = await bridgeFixture({ policy });
    const list = JSON.parse((await fixture.call('/v1/models')).body);
    expect(list.data.map((model: { id: string }) => model.id)).toEqual(['m1', 'fast']);
    expect((await fixture.call('/v1/models/fast')).status).toBe(200);
    const hidden = await fixture.call('/v1/models/m2');
    expect([hidden.status, errorOf(hidden.body)['code']]).toEqual([404, 'model_not_found']);
  });

  it('resolves aliases, defaults and unknown names', async () => {
    fixture = await bridgeFixture({ policy: { aliases: { fast: 'm2' }, defaultModel: 'm1' } });
    await fixture.call(CHAT, chat({ model: 'fast' }));
    await fixture.call(CHAT, chat({ model: 'gpt-4o-mini' }));
    const unknown = await fixture.call(CHAT, chat({ model: 'nope' }));
    expect(fixture.mock.requests.map((r) => JSON.parse(r.body).model)).toEqual(['m2', 'm1']);
    expect(unknown.status).toBe(404);
    expect(errorOf(unknown.body)['message']).toContain('Available: m1, m2, fast.');
  });

  it('sends only listed fields upstream, and those that the policy allows', async () => {
    fixture = await bridgeFixture();
    const body = chat({ enable_search: true });
    const refused = await fixture.call(CHAT, body);
    expect([refused.status, errorOf(refused.body)['param']]).toEqual([400, 'enable_search']);
    expect(errorOf(refused.body)['message']).toContain('--allow-field enable_search');
    fixture.port.setPolicy({ allowFields: ['enable_search'] });
    expect((await fixture.call(CHAT, body)).status).toBe(200);
    expect(fixture.mock.requests.map((r) => r.body)).toEqual([JSON.stringify(body)]);
  });

  it('answers an embedding request for a missing model with an embedding model or 404', async () => {
    const policy = { defaultModel: 'llama3' };
    const body = { model: 'text-embedding-3-small', input: 'x' };
    fixture = await bridgeFixture({ models: ['llama3', 'fake-embed'], policy });
    expect((await fixture.call('/v1/embeddings', body)).status).toBe(200);
    expect(JSON.parse(fixture.mock.requests[0]?.body ?? '').model).toBe('fake-embed');
    await fixture.close();
    fixture = await bridgeFixture({ models: ['llama3'], policy });
    const answer = await fixture.call('/v1/embeddings', body);
    expect(answer.status).toBe(404);
    expect(errorOf(answer.body)['message']).toContain('Available: llama3.');
    expect(fixture.mock.requests).toEqual([]);
  });

  it('fetches the list once for many requests, and accepts any name without a list', async () => {
    fixture = await bridgeFixture();
    await Promise.all([1, 2, 3, 4].map(() => fixture.call(CHAT, chat())));
    expect(fixture.mock.modelListCount()).toBe(1);
    await fixture.close();
    fixture = await bridgeFixture({ models: null });
    expect((await fixture.call(CHAT, chat({ model: 'any' }))).status).toBe(200);
  });
});

describe('bridge: streams', () => {
  const parts = [delta('héllo '), delta('wörld'), finish, usageEvent, done];

  it('forwards each event as it arrives', async () => {
    fixture = await bridgeFixture();
    const gates = parts.map(() => Promise.withResolvers<void>());
    fixture.mock.answer(async (_, response) => {
      startEvents(response, { server: 'uvicorn', 'set-cookie': 'a=b' });
      for (const [i, part] of parts.entries()) {
        await gates[i]?.promise;
        response.write(part);
      }
      response.end();
    });
    const opened = fixture.open(CHAT, chat({ stream: true, stream_options: { include_usage: true } }));
    const { headers } = await opened.head;
    expect(headers['content-type']).toBe('text/event-stream');
    expect(headers).not.toHaveProperty('server');
    expect(headers).not.toHaveProperty('set-cookie');
    for (const [i, part] of parts.entries()) {
      gates[i]?.resolve();
      await opened.until(part);
    }
    expect(await opened.ended).toEqual({ broken: false });
    expect(opened.text()).toBe(parts.join(''));
  });

  it.each([1, 2, 3, 7, 50])('keeps every byte when the upstream sends %i at a time', async (size) => {
    fixture = await bridgeFixture();
    const bytes = Buffer.from(parts.join(''));
    fixture.mock.answer(async (_, response) => {
      startEvents(response);
      for (let i = 0; i < bytes.length; i += size) {
        response.write(bytes.subarray(i, i + size));
        if (i % 20 === 0) await new Promise(setImmediate);
      }
      response.end();
    });
    const settled = fixture.nextUsage();
    const answer = await fixture.call(CHAT, chat({ stream: true }));
    expect(answer.body).toBe(parts.filter((part) => part !== usageEvent).join(''));
    expect(JSON.parse(fixture.mock.requests[0]?.body ?? '').stream_options).toEqual({ include_usage: true });
    expect(await settled).toMatchObject({
      sandboxId: 'sandbox-a',
      model: 'm1',
      operation: 'chat',
      stream: true,
      status: 200,
      promptTokens: 5,
      completionTokens: 7,
      estimated: false,
      outcome: 'ok',
    });
  });

  it('estimates usage, and marks it, when the upstream does not count', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.end(delta('a').repeat(6) + finish + done);
    });
    const settled = fixture.nextUsage();
    await fixture.call(CHAT, chat({ stream: true }));
    expect(await settled).toMatchObject({ promptTokens: 2, completionTokens: 6, estimated: true });
  });
});

describe('bridge: errors of the upstream', () => {
  it('speech: the bytes pass unchanged, and only for a model that the request names', async () => {
    const audio = Buffer.concat([
      Buffer.from([0xff, 0xfb, 0, 0x80]),
      // In a text, this would disclose a cache hit.
      Buffer.from('"cached_tokens": 57'),
      Buffer.from([0, 0xc3, 0x28]),
    ]);
    fixture = await bridgeFixture({
      models: ['tts', 'nomic-embed'],
      policy: { defaultModel: 'm1', budget: { requests: 2 }, cache: { requests: 'all', ttlMs: 60_000 } },
    });
    fixture.mock.answer((_, response) => {
      response.writeHead(200, { 'content-type': 'audio/mpeg', 'content-length': audio.length });
      response.end(audio);
    });
    const asked = { model: 'tts', input: 'four words of text', voice: 'alloy' };
    const settled = fixture.nextUsage();
    for (const _ of [1, 2]) {
      const { status, headers, body } = await fixture.call('/v1/audio/speech', asked);
      expect([status, headers['content-type']]).toEqual([200, 'audio/mpeg']);
      expect(body).toBe(audio.toString('utf8'));
    }
    expect(await settled).toMatchObject({ operation: 'speech', model: 'tts', completionTokens: 0, estimated: true });
    // None came from the cache.
    const sent = fixture.mock.requests.map(({ path, body }) => [path, JSON.parse(body)]);
    expect(sent).toEqual([
      ['/v1/audio/speech', asked],
      ['/v1/audio/speech', asked],
    ]);
    expect((await fixture.call('/v1/audio/speech', asked)).status).toBe(429);
    for (const [status, more] of [
      [404, { model: 'gpt-4o-mini-tts' }],
      [404, { model: null }],
      [400, { voice: { id: 'voice_of_the_host' } }],
      [400, { stream_format: 'sse' }],
      [400, { stream: true }],
      [400, { input: null }],
    ] as const) {
      const refused = await fixture.call('/v1/audio/speech', { ...asked, ...more });
      expect([more, refused.status]).toEqual([more, status]);
    }
    expect(fixture.mock.requests).toHaveLength(2);
  });

  it('rerank passes unchanged, with the tokens that the server counts', async () => {
    fixture = await bridgeFixture();
    const scored = { results: [{ index: 1, relevance_score: 0.9 }], usage: { prompt_tokens: 9 } };
    fixture.mock.answer((_, response) => sendJson(response, 200, scored));
    const asked = { model: 'm1', query: 'a river', documents: ['Alps', { text: 'Nile' }], top_n: 1 };
    for (const path of ['/v1/rerank', '/v2/rerank']) {
      const settled = fixture.nextUsage();
      const { status, body } = await fixture.call(path, asked);
      expect([status, JSON.parse(body)]).toEqual([200, scored]);
      expect(await settled).toMatchObject({ operation: 'rerank', promptTokens: 9, completionTokens: 0 });
    }
    for (const { path, body } of fixture.mock.requests) {
      expect([path, JSON.parse(body)]).toEqual(['/v1/rerank', asked]);
    }
    const documents = [{ image_url: { url: 'http://169.254.169.254/latest' } }];
    const remote = await fixture.call('/v1/rerank', { ...asked, documents });
    expect([remote.status, fixture.mock.requests.length]).toEqual([400, 2]);
  });

  it('hides a key that the server echoes in the middle of an answer, even in parts', async () => {
    const key = 'sk-host-secret-0123';
    fixture = await bridgeFixture({ apiKey: key });
    const { mock, call } = fixture;
    mock.answer((_, response) => {
      startEvents(response);
      response.write(`${delta('begin')}data: {"error":{"message":"Bearer sk-host-`);
      setImmediate(() => response.end(`secret-0123 is spent"}}\n\n`));
    });
    const stream = await call(CHAT, chat({ stream: true }));
    expect(stream.body).toContain(`Bearer ${'*'.repeat(key.length)} is spent`);
    mock.answer((_, response) => sendJson(response, 200, completion(`it was ${key}`)));
    const document = await call(CHAT, chat());
    expect(document.body).toContain(`it was ${'*'.repeat(key.length)}`);
    for (const { body } of [stream, document]) expect(body).not.toContain('sk-host');
  });

  it('forwards status and body, without a key that the server echoes', async () => {
    fixture = await bridgeFixture({ apiKey: 'sk-host-secret' });
    fixture.mock.answer(({ headers }, response) => {
      const error = { message: `bad request with ${headers['authorization']}` };
      sendJson(response, 422, { error }, { 'retry-after': '7' });
    });
    const settled = fixture.nextUsage();
    const answer = await fixture.call(CHAT, chat());
    expect([answer.status, answer.headers['retry-after']]).toEqual([422, '7']);
    expect(errorOf(answer.body)['message']).toBe('bad request with Bearer [removed]');
    expect(await settled).toMatchObject({ outcome: 'upstream-error', status: 422 });
  });

  it.each([
    [401, 'Incorrect API key provided: sk-host-secret-0123'],
    [403, 'Not in your country, sk-hos***0123'],
  ])('forwards status %i with the text of the upstream, without the key', async (status, text) => {
    fixture = await bridgeFixture({ apiKey: 'sk-host-secret-0123' });
    fixture.mock.answer((_, response) =>
      sendJson(response, status, { error: { message: text, code: 'theirs' } }, { 'www-authenticate': 'Bearer' }),
    );
    const plain = await fixture.call(CHAT, chat());
    expect([plain.status, errorOf(plain.body)['code']]).toEqual([status, 'theirs']);
    expect(errorOf(plain.body)['message']).toBe(text.replace(/sk-\S+/, '[removed]'));
    expect(plain.headers).not.toHaveProperty('www-authenticate');
    const streamed = await fixture.call(CHAT, chat({ stream: true }));
    expect([streamed.status, streamed.body]).toEqual([status, plain.body]);
  });

  it.each([[302, 502, 'upstream_protocol']])(
    'replaces status %i of the upstream with the bridge’s own error',
    async (theirs, ours, code) => {
      fixture = await bridgeFixture();
      fixture.mock.answer((_, response) => sendJson(response, theirs, {}, { location: 'http://x/' }));
      const answer = await fixture.call(CHAT, chat());
      expect([answer.status, errorOf(answer.body)['code']]).toEqual([ours, code]);
      expect(answer.headers).not.toHaveProperty('location');
    },
  );

  it('names the remedy if nothing listens', async () => {
    const target = { name: 'Ollama', baseUrl: 'http://127.0.0.1:1' };
    fixture = await bridgeFixture({ upstream: () => Promise.resolve(target) });
    const answer = await fixture.call(CHAT, chat());
    expect(answer.status).toBe(503);
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
    expect(answer.headers['x-should-retry']).toBe('true');
    expect(errorOf(answer.body)['message']).toMatch(/^The model server can't be reached.*start the model/);
    expect((await fixture.call('/v1/models')).status).toBe(503);
  });

  it('reports the host’s error when there is no upstream', async () => {
    const failure = new CodedError('x', 'secret path', { remedy: 'run neurovisor setup' });
    fixture = await bridgeFixture({ upstream: () => Promise.reject(failure) });
    const answer = await fixture.call(CHAT, chat());
    expect(answer.status).toBe(503);
    expect(answer.body).toContain('run neurovisor setup');
    expect(answer.body).not.toContain('secret path');
  });

  it('replaces an error page that is too large', async () => {
    fixture = await bridgeFixture({ policy: { limits: { errorBodyBytesMax: 100 } } });
    fixture.mock.answer((_, response) => sendJson(response, 500, { x: 'y'.repeat(1000) }));
    const answer = await fixture.call(CHAT, chat());
    expect([answer.status, errorOf(answer.body)['code']]).toEqual([500, 'upstream_error']);
  });

  it('retries once when an idle connection was closed during a request', async () => {
    fixture = await bridgeFixture({ policy: { allowModels: ['m1'] } });
    await fixture.call(CHAT, chat());
    let attempts = 0;
    fixture.mock.answer((_, response) => {
      attempts += 1;
      // Connection reset before any byte of an answer, on the reused connection only.
      if (attempts === 1) response.socket?.resetAndDestroy();
      else sendJson(response, 200, completion('second'));
    });
    expect((await fixture.call(CHAT, chat())).body).toContain('second');
    expect(attempts).toBe(2);
  });
});

describe('detectUpstream', () => {
  it('finds the first default place that has models', async () => {
    fixture = await bridgeFixture();
    const notModels = createServer((_, response) => response.end('<html>'));
    await new Promise<void>((resolve) => notModels.listen(0, '127.0.0.1', resolve));
    const at = (port: number) => `http://127.0.0.1:${port}`;
    const places = [
      { name: 'nothing', baseUrl: at(1) },
      { name: 'a web server', baseUrl: at((notModels.address() as AddressInfo).port) },
      { name: 'mock', baseUrl: fixture.mock.target.baseUrl ?? '' },
    ];
    expect(await detectUpstream({ places, apiKey: 'k' })).toEqual({
      name: `mock at ${new URL(places[2]?.baseUrl ?? '').host}`,
      baseUrl: places[2]?.baseUrl,
      models: ['m1', 'm2'],
      modelOwner: 'upstream',
      owner: expect.stringMatching(/^root$|\(uid \d+\)$/),
    });
    const probes = await probeUpstreams({ places });
    expect(probes.map((probe) => probe.target !== null)).toEqual([false, false, true]);
    notModels.close();
    notModels.closeAllConnections();
  });

  it('uses the configured server or none', async () => {
    fixture = await bridgeFixture();
    const { baseUrl = '' } = fixture.mock.target;
    expect(await detectUpstream({ explicit: `${baseUrl}/v1`, apiKey: 'k' })).toMatchObject({
      apiKey: 'k',
      models: ['m1', 'm2'],
    });
    expect(await detectUpstream({ explicit: 'http://127.0.0.1:1' })).toBeNull();
    await expect(detectUpstream({ explicit: 'nonsense' })).rejects.toMatchObject({ code: 'upstream_invalid' });
  });

  it('times out on a server that accepts and never answers', async () => {
    fixture = await bridgeFixture();
    const mute = createServer(() => undefined);
    await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
    const explicit = `http://127.0.0.1:${(mute.address() as AddressInfo).port}`;
    expect(await detectUpstream({ explicit, timeoutMs: 50 })).toBeNull();
    mute.close();
    mute.closeAllConnections();
  });
});
