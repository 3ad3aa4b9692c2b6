/** Guests that violate HTTP or exceed their limits (B22, S16). */
import { readdir } from 'node:fs/promises';
import { connect, createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { completion, sendJson } from '../support/mock-upstream.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const CHAT = '/v1/chat/completions';
const BODY = { model: 'm1', messages: [{ role: 'user', content: 'hello' }] };
const TEXT = JSON.stringify(BODY);
const SECOND = `POST ${CHAT} HTTP/1.1\r\nhost: y\r\ncontent-length: ${TEXT.length}\r\n\r\n${TEXT}`;
const post = (headers: string, body = TEXT) =>
  `POST ${CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${headers}\r\n\r\n${body}`;
const chunked = `${TEXT.length.toString(16)}\r\n${TEXT}\r\n0\r\n\r\n`;
const statuses = (text: string) => [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map((match) => Number(match[1]));

describe('bridge: request smuggling', () => {
  const length = `content-length: ${TEXT.length}`;
  const corpus: [string, string][] = [
    ['CL.TE', post(`${length}\r\ntransfer-encoding: chunked`, `0\r\n\r\n${SECOND}`)],
    ['TE.CL', post('transfer-encoding: chunked\r\ncontent-length: 4', chunked + SECOND)],
    ['two equal lengths', post(`${length}\r\n${length}`)],
    ['two lengths', post(`${length}\r\ncontent-length: 0`, TEXT)],
    ['a list of lengths', post(`content-length: ${TEXT.length}, ${TEXT.length}`)],
    ['a signed length', post(`content-length: +${TEXT.length}`)],
    ['a negative length', post('content-length: -1')],
    ['a length with an underscore', post('content-length: 1_0')],
    ['a name with a space', post(`content-length : ${TEXT.length}`)],
    ['a folded header', post(`${length}\r\nx: a\r\n b: c`)],
    ['a folded encoding', post('transfer-encoding:\r\n chunked', chunked)],
    ['encoding in capitals and gzip', post('Transfer-Encoding: gzip, chunked', chunked)],
    ['an obfuscated encoding', post('transfer-encoding: xchunked', chunked)],
    ['an encoding with a vertical tab', post('transfer-encoding: \u000bchunked', chunked)],
    ['identity', post('transfer-encoding: identity', TEXT)],
    ['two encodings', post('transfer-encoding: chunked\r\ntransfer-encoding: identity', chunked)],
    ['a bad chunk size', post('transfer-encoding: chunked', `0x5\r\n${chunked}`)],
    ['a chunk size beyond 2^64', post('transfer-encoding: chunked', `${'f'.repeat(20)}\r\nx`)],
    ['a chunk without its line end', post('transfer-encoding: chunked', `2\r\n{}0\r\n\r\n`)],
    ['a bare LF in the head', `POST ${CHAT} HTTP/1.1\nhost: x\n${length}\n\n${TEXT}`],
    ['a bare CR in a header', post(`${length}\r\nx: a\rb: c`)],
    ['a NUL in a header', post(`${length}\r\nx: a\0b`)],
    ['no host', `POST ${CHAT} HTTP/1.1\r\nconnection: close\r\n${length}\r\n\r\n${TEXT}`],
    ['two hosts', post(`host: y\r\n${length}`)],
    ['an absolute URI', SECOND.replace(CHAT, `http://169.254.169.254${CHAT}`)],
    ['an unknown version', SECOND.replace('HTTP/1.1', 'HTTP/1.9')],
    ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['TLS', '\u0016\u0003\u0001\u0002\u0000\u0001\u0000\u0001\u00fc\u0003\u0003'],
    ['CONNECT', 'CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: x\r\n\r\n'],
    ['TRACE', `TRACE ${CHAT} HTTP/1.1\r\nhost: x\r\nmax-forwards: 0\r\nconnection: close\r\n\r\n`],
    ['OPTIONS', 'OPTIONS * HTTP/1.1\r\nhost: x\r\nmax-forwards: 0\r\nconnection: close\r\n\r\n'],
    ['a WebSocket', post(`${length}\r\nupgrade: websocket\r\nconnection: upgrade`)],
    ['HTTP/2 by upgrade', post(`${length}\r\nupgrade: h2c\r\nconnection: upgrade`)],
    ['a compressed body', post(`${length}\r\ncontent-encoding: gzip`)],
    ['too large headers', post(`${length}\r\nx: ${'a'.repeat(20_000)}`)],
    ['too many headers', post(length + '\r\nx: a'.repeat(150))],
    ['an expectation', post(`${length}\r\nexpect: a miracle`)],
    ['not HTTP at all', 'hello\r\n\r\n'],
  ];
  it.each(corpus)('%s never reaches the upstream, and the connection ends', async (_, bytes) => {
    fixture = await bridgeFixture({ policy: { limits: { headersTimeoutMs: 500 } } });
    const answer = await fixture.raw(Buffer.from(bytes, 'latin1'));
    for (const status of statuses(answer)) expect(status).toBeGreaterThanOrEqual(400);
    expect(answer).not.toContain('hello world');
    expect(fixture.mock.requests).toEqual([]);
    // The port still serves others.
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
  });

  it('the corpus is sound: the same request without the trick is served', async () => {
    fixture = await bridgeFixture();
    expect(statuses(await fixture.raw(post(length)))).toEqual([200]);
    expect(statuses(await fixture.raw(post('transfer-encoding: chunked', chunked)))).toEqual([200]);
    expect(fixture.mock.requests.map((request) => request.body)).toEqual([TEXT, TEXT]);
  });

  it('a pipelined request ends the connection; sequential requests are served', async () => {
    fixture = await bridgeFixture();
    const answer = await fixture.raw(SECOND + SECOND.replace('host: y', 'host: z'));
    expect(statuses(answer).length).toBeLessThanOrEqual(1);
    expect(fixture.port.stats()).toMatchObject({ dropped: 1 });
    const socket = createConnection(fixture.socketPath);
    let seen = '';
    socket.setEncoding('utf8').on('data', (part: string) => {
      seen += part;
    });
    for (const n of [1, 2, 3]) {
      socket.write(SECOND);
      await expect.poll(() => statuses(seen)).toEqual(Array(n).fill(200));
    }
    socket.destroy();
  });

  it('a refused body is not parsed as the next request', async () => {
    fixture = await bridgeFixture({ policy: { limits: { bodyBytesMax: 1000 } } });
    const inner = SECOND.padEnd(5000, ' ');
    const keep = (headers: string, body: string) => `POST ${CHAT} HTTP/1.1\r\nhost: x\r\n${headers}\r\n\r\n${body}`;
    const declared = await fixture.raw(keep(`content-length: ${inner.length}`, inner));
    expect(statuses(declared)).toEqual([413]);
    const sent = `${inner.length.toString(16)}\r\n${inner}\r\n0\r\n\r\n`;
    const counted = await fixture.raw(keep('transfer-encoding: chunked', sent));
    expect(statuses(counted)).toEqual([413]);
    expect(fixture.mock.requests).toEqual([]);
  });
});

describe('bridge: floods', () => {
  it('answers 429 with Retry-After above the requests in flight, and recovers', async () => {
    fixture = await bridgeFixture({ policy: { limits: { requestsInFlightMax: 2 } } });
    const go = Promise.withResolvers<void>();
    fixture.mock.answer(async (_, response) => {
      await go.promise;
      sendJson(response, 200, completion('ok'));
    });
    const first = [fixture.call(CHAT, BODY), fixture.call(CHAT, BODY)];
    await expect.poll(() => fixture.mock.requests.length).toBe(2);
    const over = await fixture.call(CHAT, BODY);
    expect(over.status).toBe(429);
    expect(over.headers).toMatchObject({ 'retry-after': '1', 'x-should-retry': 'true' });
    go.resolve();
    expect((await Promise.all(first)).map((answer) => answer.status)).toEqual([200, 200]);
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
  });

  it('closes connections above the limit', async () => {
    fixture = await bridgeFixture({ policy: { limits: { connectionsMax: 3 } } });
    const sockets = await Promise.all([1, 2, 3].map(() => fixture.connect()));
    expect(await fixture.raw('x')).toBe('');
    expect(fixture.port.stats()).toMatchObject({ connections: 3, dropped: 1 });
    for (const socket of sockets) socket.destroy();
    await expect.poll(() => fixture.port.stats().connections).toBe(0);
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
  });

  it('holds at most its limit of body bytes, and releases them', async () => {
    const limits = { bodyBytesMax: 400_000, bodyTotalBytesMax: 1_000_000 };
    fixture = await bridgeFixture({ policy: { limits } });
    const head = `POST ${CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\n`;
    const sockets = await Promise.all(Array.from({ length: 10 }, () => fixture.connect()));
    let refused = 0;
    for (const socket of sockets) {
      socket.on('data', (part) => {
        if (part.includes('body_memory_full')) refused += 1;
      });
      socket.write(head + 'x'.repeat(390_000));
    }
    await expect.poll(() => refused).toBeGreaterThanOrEqual(7);
    expect(fixture.port.stats().bodyBytes).toBeLessThanOrEqual(1_000_000);
    for (const socket of sockets) socket.destroy();
    await expect.poll(() => fixture.port.stats()).toMatchObject({ bodyBytes: 0, inFlight: 0 });
    expect((await fixture.call(CHAT, BODY)).status).toBe(200);
  });

  it('floods of other sandboxes leave each sandbox its share of the memory for bodies', async () => {
    const bodyMemory = { sumMax: 1_200_000, ownMax: 600_000, guaranteed: 100_000, places: 4 };
    fixture = await bridgeFixture({ bodyMemory });
    const head = `POST ${CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n`;
    const sockets: Socket[] = [];
    let refused = 0;
    for (const id of ['hostile-1', 'hostile-2', 'hostile-3']) {
      const socketPath = join(fixture.dir, id);
      await fixture.bridge.attach({ sandboxId: id, socketPath });
      for (let i = 0; i < 5; i += 1) {
        const socket = connect(socketPath);
        sockets.push(socket);
        socket.on('error', () => socket.destroy());
        socket.on('data', (part) => {
          if (part.includes('body_memory_full')) refused += 1;
        });
        socket.write(head + 'x'.repeat(190_000));
      }
    }
    await expect.poll(() => refused).toBeGreaterThan(3);
    const held = fixture.bridge.metrics().find(({ name }) => name.endsWith('_body_bytes'));
    expect(held?.samples()[0]?.value).toBeLessThanOrEqual(bodyMemory.sumMax);
    fixture.mock.answer((_, response) => sendJson(response, 200, completion('ok')));
    const text = 'x'.repeat(90_000);
    const answer = await fixture.call(CHAT, { ...BODY, messages: [{ role: 'user', content: text }] });
    expect(answer.status).toBe(200);
    for (const socket of sockets) socket.destroy();
    await expect.poll(() => held?.samples()[0]?.value).toBe(0);
  });

  it('a body in chunks of one byte takes no more memory than its size', async () => {
    fixture = await bridgeFixture();
    const socket = await fixture.connect();
    socket.write(`POST ${CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n`);
    const count = 200_000;
    socket.write('1\r\nx\r\n'.repeat(count));
    await expect.poll(() => fixture.port.stats().bodyBytes).toBeGreaterThanOrEqual(count);
    expect(fixture.port.stats().bodyBytes).toBeLessThan(3 * count);
    socket.destroy();
  });

  it.each([
    ['depth', `{"model":"m1","messages":${'['.repeat(50_000)}${']'.repeat(50_000)}}`],
    ['number of objects', `{"model":"m1","messages":[${'{},'.repeat(110_000)}{}]}`],
    ['number of values', `{"model":"m1","messages":[${'1,'.repeat(1_100_000)}1]}`],
  ])('refuses a body beyond the %s that it parses', async (_, body) => {
    fixture = await bridgeFixture();
    const answer = await fixture.call(CHAT, body);
    expect([answer.status, JSON.parse(answer.body).error.code]).toEqual([400, 'invalid_json']);
  });
});

describe('bridge: slow loris', () => {
  it.each([
    ['nothing', ''],
    ['half a head', `POST ${CHAT} HTTP/1.1\r\nhost: x\r\n`],
    ['half a body', `POST ${CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{`],
  ])('a connection that sends %s and waits is closed', async (_, bytes) => {
    const limits = { headersTimeoutMs: 200, bodyTimeoutMs: 300 };
    fixture = await bridgeFixture({ policy: { limits } });
    const answer = await fixture.raw(bytes);
    expect(statuses(answer).every((status) => status === 408)).toBe(true);
    await expect.poll(() => fixture.port.stats()).toMatchObject({ connections: 0, inFlight: 0 });
  });
});

/** Sends parts with pauses, reads nothing before all are sent, and reports write errors. */
async function sendFirst(parts: readonly (string | Buffer)[]): Promise<[string, unknown]> {
  const socket = await fixture.connect();
  socket.pause();
  let fault: unknown;
  socket.on('error', (error) => {
    fault = error;
  });
  const closed = new Promise((resolve) => socket.once('close', resolve));
  for (const part of parts) {
    await new Promise((resolve) => socket.write(part, resolve));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  let seen = '';
  socket.setEncoding('utf8').on('data', (text: string) => {
    seen += text;
  });
  socket.resume();
  await closed;
  return [seen, fault];
}

describe('bridge: early refusals', () => {
  const head = (path: string, headers: string) => `POST ${path} HTTP/1.1\r\nhost: x\r\n${headers}\r\n\r\n`;
  const mib = 1024 * 1024;
  it.each([
    ['unknown path', 404, [head('/v1/nowhere', `content-length: ${TEXT.length}`), TEXT]],
    ['compressed body', 415, [head(CHAT, 'content-encoding: gzip\r\ncontent-length: 4'), 'abcd']],
    ['declared 40 MiB', 413, [head(CHAT, `content-length: ${40 * mib}`), Buffer.alloc(40 * mib, 'x')]],
    [
      'chunks of 40 MiB',
      413,
      [head(CHAT, 'transfer-encoding: chunked'), ...Array(40).fill(`100000\r\n${'x'.repeat(mib)}\r\n`), '0\r\n\r\n'],
    ],
    ['large head', 431, [`POST ${CHAT} HTTP/1.1\r\nx: ${'a'.repeat(20_000)}`, 'b'.repeat(mib)]],
    ['bad chunk', 400, [head(CHAT, 'transfer-encoding: chunked'), 'zz\r\n', 'b'.repeat(mib)]],
  ])('%s: a client that sends first and reads later gets the answer', async (_, status, parts) => {
    fixture = await bridgeFixture();
    const [seen, fault] = await sendFirst(parts);
    expect(fault).toBeUndefined();
    expect(statuses(seen)).toEqual([status]);
    expect(JSON.parse(seen.slice(seen.indexOf('\r\n\r\n')))).toHaveProperty('error.code');
    await expect.poll(() => fixture.port.stats()).toMatchObject({ connections: 0, inFlight: 0 });
  });

  it.each([
    ['bytes', { lingerBytesMax: 1000 }],
    ['time', { lingerTimeoutMs: 100 }],
  ])('a client that keeps sending is disconnected beyond the limit of %s', async (_, limits) => {
    fixture = await bridgeFixture({ policy: { limits } });
    const socket = await fixture.connect();
    socket.resume();
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.write(head('/v1/nowhere', `content-length: ${40 * mib}`));
    const timer = setInterval(() => socket.write('x'.repeat(100)), 5);
    await closed;
    clearInterval(timer);
    expect(fixture.port.stats()).toMatchObject({ refused: 1, bodyBytes: 0 });
  });
});

describe('bridge: resources', () => {
  it('1000 requests leave no descriptor, connection or memory behind', async () => {
    fixture = await bridgeFixture();
    const descriptors = async () => (await readdir('/proc/self/fd')).length;
    await fixture.call(CHAT, BODY);
    const before = await descriptors();
    for (let i = 0; i < 1000; i += 1) {
      const path = i % 10 === 0 ? '/v1/nowhere' : CHAT;
      await fixture.call(path, BODY);
    }
    await expect.poll(() => fixture.port.stats()).toMatchObject({ connections: 0, inFlight: 0 });
    // Both ends of the last connections are in this process, and close one after the other.
    await expect.poll(descriptors).toBeLessThanOrEqual(before + 2);
    expect(fixture.mock.connections()).toBeLessThanOrEqual(2);
    expect(fixture.port.stats()).toMatchObject({ served: 901, refused: 100, bodyBytes: 0 });
  });

  it('close removes the socket and ends its connections', async () => {
    fixture = await bridgeFixture();
    const socket = await fixture.connect();
    const closed = new Promise((resolve) => socket.once('close', resolve));
    await fixture.port.close();
    await closed;
    expect(await readdir(fixture.dir)).toEqual([]);
    await expect(fixture.bridge.attach({ sandboxId: 'x', socketPath: `${fixture.dir}/no/such` })).rejects.toMatchObject(
      { code: 'listen_failed' },
    );
    await fixture.bridge.close();
    await expect(fixture.bridge.attach({ sandboxId: 'x', socketPath: fixture.socketPath })).rejects.toMatchObject({
      code: 'closed',
    });
  });
});
