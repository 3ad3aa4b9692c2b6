/**
 * A peer disconnects, and the other side notices (B6, B7); a guest in each phase and dialect: `bridge-cancel-phases`.
 */
import { connect } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { UpstreamTarget } from '../../src/inference/bridge/bridge.ts';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { holdConnection } from '../support/held-connection.ts';
import { delta, done, finish, type Recorded, sendJson, startEvents } from '../support/mock-upstream.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const CHAT = '/v1/chat/completions';
const BODY = { model: 'm1', messages: [{ role: 'user', content: 'hello' }] };
const STREAM = { ...BODY, stream: true };
const never = (): void => undefined;

describe('bridge: cancel when the guest disconnects', () => {
  const ways: [string, (f: BridgeFixture, abort: () => void) => unknown][] = [
    ['the guest closes', (_, abort) => abort()],
    ['the port is closed', (f) => f.port.close()],
  ];

  it.each(ways)('%s during the wait for the upstream', async (_, leave) => {
    const asked = Promise.withResolvers<void>();
    const target = Promise.withResolvers<UpstreamTarget>();
    fixture = await bridgeFixture({
      upstream() {
        asked.resolve();
        return target.promise;
      },
    });
    const opened = fixture.open(CHAT, STREAM);
    await asked.promise;
    await leave(fixture, opened.abort);
    await expect.poll(() => fixture.port.stats()).toMatchObject({ cancelled: 1, inFlight: 0 });
    target.resolve(fixture.mock.target);
    await new Promise(setImmediate);
    expect(fixture.mock.requests).toHaveLength(0);
    expect(fixture.usage).toHaveLength(0);
  });

  it.each(ways)('%s in the middle of a document', async (_, leave) => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': '100' });
      response.write('{"choices":');
    });
    const arrived = fixture.mock.next();
    const opened = fixture.open(CHAT, BODY);
    await opened.until('choices');
    await leave(fixture, opened.abort);
    await (await arrived).aborted;
    expect((await opened.ended).broken).toBe(true);
  });

  it('a guest that hangs up at [DONE], like the Python SDK, does not count as cancelled', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.write(delta('one') + finish + done);
    });
    const arrived = fixture.mock.next();
    const settled = fixture.nextUsage();
    const opened = fixture.open(CHAT, STREAM);
    await opened.until(done);
    opened.abort();
    expect(await settled).toMatchObject({ outcome: 'ok', status: 200 });
    await (await arrived).aborted;
    expect(fixture.port.stats()).toMatchObject({ served: 1, cancelled: 0, inFlight: 0 });
  });

  it('a half-closed connection counts as disconnected', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer(never);
    const arrived = fixture.mock.next();
    const text = JSON.stringify(BODY);
    const socket = await fixture.connect();
    socket.write(`POST ${CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
    await arrived;
    socket.end();
    await (await arrived).aborted;
    await expect.poll(() => fixture.port.stats()).toMatchObject({ cancelled: 1, connections: 0 });
  });

  it('a guest that does not read: the upstream is blocked, then cancelled', async () => {
    fixture = await bridgeFixture({ policy: { limits: { stallTimeoutMs: 300 } } });
    let written = 0;
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      const push = (): void => {
        if (response.destroyed) return;
        written += 64_000;
        if (response.write(delta('x'.repeat(64_000)))) setImmediate(push);
        else response.once('drain', push);
      };
      push();
    });
    const arrived = fixture.mock.next();
    const socket = connect(fixture.socketPath);
    socket.on('error', () => undefined);
    socket.pause();
    const text = JSON.stringify(STREAM);
    socket.write(`POST ${CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
    await (await arrived).aborted;
    // Only the socket buffers of both connections, not everything that the producer could send meanwhile.
    expect(written).toBeLessThan(32 * 1024 * 1024);
    await expect.poll(() => fixture.port.stats()).toMatchObject({ cancelled: 1, inFlight: 0 });
    socket.destroy();
  });
});

describe('bridge: keep-alive comments', () => {
  const limits = { keepAliveIntervalMs: 40 };

  it('are sent while the engine starts, before the first token and between tokens', async () => {
    const target = Promise.withResolvers<UpstreamTarget>();
    fixture = await bridgeFixture({ policy: { limits }, upstream: () => target.promise });
    const first = Promise.withResolvers<void>();
    const second = Promise.withResolvers<void>();
    fixture.mock.answer(async (_request, response) => {
      startEvents(response);
      await first.promise;
      response.write(delta('one'));
      await second.promise;
      response.end(finish + done);
    });
    const opened = fixture.open(CHAT, STREAM);
    const head = await opened.head;
    expect(head.headers['content-type']).toContain('text/event-stream');
    await opened.until(': keep-alive\n\n: keep-alive\n\n');
    target.resolve(fixture.mock.target);
    await fixture.mock.next();
    first.resolve();
    await opened.until(delta('one'));
    await opened.until(`${delta('one')}: keep-alive\n\n`);
    second.resolve();
    expect(await opened.ended).toEqual({ broken: false });
    const events = opened.text().replaceAll(': keep-alive\n\n', '');
    expect(events).toBe(delta('one') + finish + done);
  });

  it('are never inside an event', async () => {
    fixture = await bridgeFixture({ policy: { limits } });
    const rest = Promise.withResolvers<void>();
    fixture.mock.answer(async (_request, response) => {
      startEvents(response);
      response.write(delta('one').slice(0, 20));
      await rest.promise;
      response.end(delta('one').slice(20) + finish);
    });
    const opened = fixture.open(CHAT, STREAM);
    await opened.until(': keep-alive\n\n: keep-alive\n\n');
    rest.resolve();
    await opened.ended;
    expect(opened.text().replaceAll(': keep-alive\n\n', '')).toBe(delta('one') + finish);
  });

  it('are not sent within an event that is too large to buffer', async () => {
    fixture = await bridgeFixture({ policy: { limits: { ...limits, eventBytesMax: 100 } } });
    const rest = Promise.withResolvers<void>();
    const large = delta('x'.repeat(1000));
    fixture.mock.answer(async (_request, response) => {
      startEvents(response);
      response.write(large.slice(0, 500));
      await rest.promise;
      response.end(large.slice(500) + finish);
    });
    const opened = fixture.open(CHAT, STREAM);
    await opened.until('xxxx');
    setTimeout(rest.resolve, 5 * limits.keepAliveIntervalMs);
    await opened.ended;
    expect(opened.text()).toContain(large + finish);
  });

  it('turn a later error into an event, without [DONE]', async () => {
    fixture = await bridgeFixture({ policy: { limits } });
    const fail = Promise.withResolvers<void>();
    fixture.mock.answer(async (_request, response) => {
      await fail.promise;
      sendJson(response, 400, { error: { message: 'context too long' } });
    });
    const opened = fixture.open(CHAT, STREAM);
    await opened.until(': keep-alive');
    fail.resolve();
    await opened.ended;
    const last = opened.text().trimEnd().split('\n\n').at(-1) ?? '';
    expect(JSON.parse(last.replace('data: ', ''))).toMatchObject({
      error: { message: 'context too long', code: 'upstream_error' },
    });
    expect(opened.text()).not.toContain('[DONE]');
  });

  it('are not sent for answers that are not streams', async () => {
    fixture = await bridgeFixture({ policy: { limits } });
    fixture.mock.answer((_request, response) => {
      setTimeout(() => sendJson(response, 200, { ok: true }), 150);
    });
    expect((await fixture.call(CHAT, BODY)).body).toBe('{"ok":true}');
  });
});

describe('bridge: upstreams that break', () => {
  it('an upstream that accepts and stays silent while TLS begins counts as not connected', async () => {
    await using door = await holdConnection();
    fixture = await bridgeFixture({
      policy: { limits: { connectTimeoutMs: 100 } },
      upstream: async () => ({ name: 'door', baseUrl: `https://127.0.0.1:${door.port}`, models: ['m1'] }),
    });
    const answer = await fixture.call(CHAT, BODY);
    expect([answer.status, JSON.parse(answer.body).error.code]).toEqual([503, 'upstream_unreachable']);
    await door.ended;
  });

  const lastEvent = (text: string): unknown =>
    JSON.parse((text.trimEnd().split('\n\n').at(-1) ?? '').replace('data: ', ''));

  it.each([
    ['is killed', (f: BridgeFixture) => f.mock.kill()],
    ['ends cleanly but too early', undefined],
  ])('an upstream that %s in a stream gives an error event, not an end', async (_, kill) => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.write(`${delta('one')}data: {"choi`);
      if (kill === undefined) response.end();
    });
    const settled = fixture.nextUsage();
    const opened = fixture.open(CHAT, STREAM);
    await opened.until(delta('one'));
    kill?.(fixture);
    await opened.ended;
    expect(lastEvent(opened.text())).toMatchObject({ error: { code: 'upstream_died' } });
    expect(opened.text()).not.toContain('[DONE]');
    expect(await settled).toMatchObject({ outcome: 'upstream-lost', completionTokens: 1 });
    expect(fixture.port.stats()).toMatchObject({ failed: 1, inFlight: 0 });
  });

  it('a stream without [DONE] but with a finish reason is complete', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      startEvents(response);
      response.end(delta('one') + finish);
    });
    const answer = await fixture.call(CHAT, STREAM);
    expect(answer.body).toBe(delta('one') + finish);
  });

  it('an upstream killed in a document breaks the connection', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.write('{"choices":');
    });
    const opened = fixture.open(CHAT, BODY);
    await opened.until('choices');
    fixture.mock.kill();
    expect(await opened.ended).toEqual({ broken: true });
  });

  it('an upstream killed before its answer gives 503', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer(() => fixture.mock.kill());
    const answer = await fixture.call(CHAT, BODY);
    expect([answer.status, JSON.parse(answer.body).error.code]).toEqual([503, 'upstream_unreachable']);
  });

  it.each(['silenceTimeoutMs', 'totalTimeoutMs'])('%s ends a request with 504', async (name) => {
    fixture = await bridgeFixture({ policy: { limits: { [name]: 100 } } });
    fixture.mock.answer(never);
    const arrived: Promise<Recorded> = fixture.mock.next();
    const answer = await fixture.call(CHAT, BODY);
    expect([answer.status, JSON.parse(answer.body).error.code]).toEqual([504, 'upstream_timeout']);
    await (await arrived).aborted;
  });

  it.each<[string, number, (f: BridgeFixture) => void]>([
    ['that can’t be reached', 503, ({ mock }) => mock.answer(() => mock.kill())],
    ['that is silent', 504, ({ mock }) => mock.answer(never)],
    ['that answers nonsense', 502, ({ mock }) => mock.answer((_request, response) => void response.end('['))],
  ])('of an upstream %s, a guest does not read the address', async (_, status, breakIt) => {
    const name = 'unix:/run/private/vllm.sock';
    fixture = await bridgeFixture({
      policy: { limits: { silenceTimeoutMs: 200 } },
      upstream: async ({ target }) => ({ ...target, name }),
    });
    expect((await fixture.call('/v1/models')).body).not.toContain('private');
    breakIt(fixture);
    const answer = await fixture.call('/api/embed', '{"model":"m1","input":"a"}');
    expect([answer.status, JSON.parse(answer.body).error]).toEqual([
      status,
      expect.stringMatching(/^The model server /),
    ]);
  });

  it('an answer that is not a stream, after keep-alives, is dropped and reported as an event', async () => {
    fixture = await bridgeFixture({ policy: { limits: { keepAliveIntervalMs: 20 } } });
    const go = Promise.withResolvers<void>();
    fixture.mock.answer(async (_request, response) => {
      await go.promise;
      response.writeHead(200, { 'content-type': 'application/json' });
      response.write('{"choices":');
    });
    const arrived = fixture.mock.next();
    const opened = fixture.open(CHAT, STREAM);
    await opened.until(': keep-alive');
    go.resolve();
    await opened.ended;
    expect(lastEvent(opened.text())).toMatchObject({ error: { code: 'upstream_protocol' } });
    await (await arrived).aborted;
  });

  it('an upstream that switches protocols gives 503', async () => {
    fixture = await bridgeFixture();
    fixture.mock.answer((_request, response) => {
      response.socket?.write('HTTP/1.1 101 Hm\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n');
    });
    expect((await fixture.call(CHAT, BODY)).status).toBe(503);
  });
});
