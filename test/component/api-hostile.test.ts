/** The REST server against clients that are broken, slow, greedy, gone or not allowed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';
import { API_LIMITS } from '../../src/api/rest/limits.ts';
import { createApiServer } from '../../src/api/rest/server.ts';
import { FakeClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { createRequest } from '../../src/sandbox/contract/schema/request.ts';
import { API_KEY, type ApiFixture, startApi } from '../support/api-fixture.ts';
import { untilCancelled } from '../support/fake-control-plane.ts';

/** Sends raw bytes and reads to the end of the connection. */
async function raw(api: ApiFixture, ...parts: string[]): Promise<string> {
  const socket = api.connect();
  const answer = text(socket);
  for (const part of parts) socket.write(part);
  return await answer;
}

const statusOf = (answer: string): number => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1]);
const codeOf = (answer: string): unknown => {
  const body = answer.slice(answer.indexOf('\r\n\r\n') + 4);
  return (JSON.parse(body) as { error: { code: unknown } }).error.code;
};
const post = (path: string, headers: string, body = ''): string =>
  `POST ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n${headers}\r\n${body}`;
const json = (body: string, length = Buffer.byteLength(body)): string =>
  `content-type: application/json\r\ncontent-length: ${length}\r\n`;

const zeros = (length: number): number[] => Array.from({ length }, () => 0);
const numbers = (): Record<string, number> => Object.fromEntries(zeros(8000).entries());
async function problemOf(api: ApiFixture, path: string, body: unknown): Promise<string> {
  const sent = JSON.stringify(body);
  const answer = await raw(api, post(path, json(sent), sent));
  expect([statusOf(answer), codeOf(answer)]).toEqual([400, 'request_invalid']);
  return (JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))) as { error: { message: string } }).error.message;
}

describe('malformed requests get a typed error', () => {
  it.each([
    ['not HTTP', 'hello\r\n\r\n', 400, 'request_invalid'],
    ['TLS', '\x16\x03\x01\x02\x00\x01\x00', 400, 'request_invalid'],
    [
      'large headers',
      `GET /v1/host HTTP/1.1\r\nhost: x\r\na: ${'a'.repeat(API_LIMITS.headerBytesMax)}\r\n\r\n`,
      431,
      'too_large',
    ],
    ['a large path', `GET /v1/${'a'.repeat(API_LIMITS.headerBytesMax)} HTTP/1.1\r\nhost: x\r\n\r\n`, 431, 'too_large'],
    ['two lengths', post('/v1/sandboxes', 'content-length: 1\r\ncontent-length: 2\r\n', 'x'), 400, 'request_invalid'],
    [
      'a length and chunks',
      post('/v1/sandboxes', 'content-length: 1\r\ntransfer-encoding: chunked\r\n', '0\r\n\r\n'),
      400,
      'request_invalid',
    ],
    ['bad JSON', post('/v1/sandboxes', json('{"a":'), '{"a":'), 400, 'request_invalid'],
    ['a body that is not JSON', post('/v1/sandboxes', json('\0'), '\0'), 400, 'request_invalid'],
    [
      'an unsupported media type',
      post('/v1/sandboxes', 'content-type: text/xml\r\ncontent-length: 2\r\n', '<>'),
      415,
      'media_type',
    ],
    [
      'a path above the root',
      'GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n',
      404,
      'route_not_found',
    ],
    [
      'a path that is not percent-encoded',
      'GET /v1/sandboxes/%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n',
      400,
      'request_invalid',
    ],
    [
      'an id that is longer than all are',
      post(`/v1/sandboxes/${'a'.repeat(65)}/pause`, json('{}'), '{}'),
      400,
      'request_invalid',
    ],
    [
      'an upgrade of another path',
      'GET /v1/host HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: neurovisor-guest\r\n\r\n',
      404,
      'route_not_found',
    ],
    [
      'a web page',
      'GET /v1/host HTTP/1.1\r\nhost: x\r\norigin: http://evil.example\r\nconnection: close\r\n\r\n',
      403,
      'forbidden',
    ],
  ])('%s', async (_what, request, status, code) => {
    await using api = await startApi();
    const answer = await raw(api, request);
    expect([statusOf(answer), codeOf(answer)]).toEqual([status, code]);
    expect(api.errors).toEqual([]);
    expect((await api.control.list()).length).toBe(0);
  });

  it('another upgrade (h2c): ignored, the request is answered', async () => {
    await using api = await startApi();
    const headers = 'connection: upgrade, close\r\nupgrade: h2c\r\n';
    const answer = await raw(api, `GET /v1/health HTTP/1.1\r\nhost: x\r\n${headers}\r\n`);
    expect(statusOf(answer)).toBe(200);
  });
});

describe('a request that fails before its path is known', () => {
  it.each([
    ['large headers', 'a'.repeat(API_LIMITS.headerBytesMax), 431],
    ['no header', '\0', 400],
  ])('%s: the error is one of ours and one of E2B’s', async (_, value, status) => {
    await using api = await startApi();
    const answer = await raw(api, `GET /sandboxes HTTP/1.1\r\nhost: x\r\na: ${value}\r\n\r\n`);
    const body = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')));
    expect(body).toMatchObject({ error: { message: expect.any(String) }, code: status, message: body.error.message });
  });
});

describe('bodies', () => {
  it('too_large: the client sees the answer', async () => {
    await using api = await startApi();
    const socket = api.connect();
    const answer = text(socket);
    const length = 2 * API_LIMITS.bodyBytesMax;
    socket.write(post('/v1/sandboxes', json('', length)));
    socket.write(Buffer.alloc(length, ' '));
    const refused = await answer;
    expect([statusOf(refused), codeOf(refused)]).toEqual([413, 'too_large']);
  });

  it.each([
    ['variables', '/v1/sandboxes', { env: numbers() }, 'body.env: expected at most 256 pairs'],
    ['labels', '/v1/sandboxes', { metadata: numbers() }, 'body.metadata: expected at most 32 pairs'],
    ['models', '/v1/sandboxes', { models: { aliases: numbers() } }, 'body.models.aliases: expected at most 256 pairs'],
    ['arguments', `/v1/sandboxes/${'a'.repeat(20)}/exec`, { argv: zeros(80_000) }, 'expected at most 65536'],
    ['unknown fields', '/v1/sandboxes', numbers(), 'body: Unrecognized keys: "0", "1"'],
  ])('too many %s: one problem, of bounded length', async (_what, path, body, problem) => {
    await using api = await startApi();
    const message = await problemOf(api, path, body);
    expect(message).toContain(problem);
    expect(message.length).toBeLessThanOrEqual(API_LIMITS.messageCharactersMax);
    expect(message).not.toContain(';');
  });

  it.each([
    ['values', `[${'0,'.repeat(API_LIMITS.bodyJson.valuesMax)}0]`],
    ['names', `{${'"a":0,'.repeat(API_LIMITS.bodyJson.namesMax)}"a":0}`],
  ])('too_large: more %s than any body needs', async (what, body) => {
    await using api = await startApi();
    const refused = await raw(api, post('/v1/sandboxes', json(body), body));
    expect([statusOf(refused), codeOf(refused)]).toEqual([413, 'too_large']);
    expect(refused).toContain(`JSON ${what}`);
    expect(api.errors).toEqual([]);
  });

  it('many problems: the first ones are named', async () => {
    await using api = await startApi();
    const names = Object.keys(createRequest.shape);
    const fields = Object.fromEntries(names.map((name) => [name, [0]]));
    const problems = (await problemOf(api, '/v1/sandboxes', fields)).split('; ');
    expect(problems).toHaveLength(API_LIMITS.problemsMax + 1);
    expect(problems.at(0)).toMatch(/^body\.cpus: /);
    expect(problems.at(-1)).toMatch(/^and \d+ more$/);
  });

  it('request_timeout: a body that does not arrive in time', async () => {
    const clock = new WatchedClock();
    await using api = await startApi({ clock });
    const socket = api.connect();
    socket.write(`POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\n${json('', 100)}\r\n{`);
    const answer = once(socket, 'data');
    await clock.runOut(API_LIMITS.bodyMsMax);
    const refused = String((await answer)[0]);
    expect([statusOf(refused), codeOf(refused)]).toEqual([408, 'request_timeout']);
  });

  it('request_timeout: an upload that stalls', async () => {
    const clock = new WatchedClock();
    await using api = await startApi({ clock });
    const { id } = await api.control.create({});
    const path = join(await api.control.dirOf(id), 'f');
    writeFileSync(path, 'old');
    const socket = api.connect();
    const url = `/v1/sandboxes/${id}/files?path=${encodeURIComponent(path)}`;
    socket.write(`PUT ${url} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf`);
    const answer = once(socket, 'data');
    // One timer for `half`, one for the rest.
    await clock.runOut(API_LIMITS.uploadIdleMsMax, 2);
    expect(codeOf(String((await answer)[0]))).toBe('request_timeout');
    // The guest replaces a file only by a complete one.
    expect(statSync(path).size).toBe(3);
  });
});

describe('clients that disconnect', () => {
  it('during create: nothing is left behind', async () => {
    const asked = Promise.withResolvers<AbortSignal | undefined>();
    await using api = await startApi({
      beforeCreate: async (request, signal) => {
        asked.resolve(signal);
        await untilCancelled(request, signal);
      },
    });
    const socket = api.connect();
    socket.write(post('/v1/sandboxes', json('{}'), '{}'));
    const signal = await asked.promise;
    socket.destroy();
    if (signal?.aborted === false) await once(signal, 'abort');
    expect(await api.control.list()).toEqual([]);
  });

  it('when the sandbox becomes ready: it is removed again', async () => {
    const asked = Promise.withResolvers<AbortSignal | undefined>();
    const proceed = Promise.withResolvers<void>();
    // A control plane that notices the signal too late.
    await using api = await startApi();
    const create = api.control.create.bind(api.control);
    api.control.create = async (request, signal) => {
      asked.resolve(signal);
      await proceed.promise;
      return await create(request);
    };
    const ended = new Promise<SandboxInfo>((resolve) => {
      api.control.onChange((info) => info.status === 'ended' && resolve(info));
    });
    const socket = api.connect();
    socket.write(post('/v1/sandboxes', json('{}'), '{}'));
    const signal = await asked.promise;
    socket.destroy();
    if (signal?.aborted === false) await once(signal, 'abort');
    proceed.resolve();
    expect((await ended).status).toBe('ended');
  });

  it('during exec: the program is killed', async () => {
    await using api = await startApi();
    const { id } = await api.control.create({});
    const started = join(await api.control.dirOf(id), 'started');
    const body = JSON.stringify({ argv: ['sh', '-c', `touch ${started}; sleep 600`] });
    const socket = api.connect();
    socket.write(post(`/v1/sandboxes/${id}/exec`, json(body), body));
    await expect.poll(() => existsSync(started)).toBe(true);
    socket.destroy();
    const guest = await api.control.guest(id);
    await expect.poll(() => guest.processes()).toEqual([]);
  });
});

describe('event stream', () => {
  it('a reader that does not read: the stream ends at its limit', async () => {
    await using api = await startApi();
    const { id } = await api.control.create({});
    const socket = api.connect();
    socket.write('GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n');
    await once(socket, 'readable');
    socket.pause();
    const metadata = Object.fromEntries(Array.from({ length: 32 }, (_, key) => [`k${key}`, 'x'.repeat(1024)]));
    for (let change = 0; change < 200; change += 1) await api.control.update(id, { metadata });
    const events = await text(socket);
    expect(events.endsWith('event: overflow\ndata: {}\n\n\r\n0\r\n\r\n')).toBe(true);
    // Plus the bytes that the kernel had buffered.
    expect(events.length).toBeLessThan(3 * 1024 * 1024);
  });
});

describe('access', () => {
  const get = async (port: number, path: string, headers: Record<string, string>) => {
    const answer = await fetch(`http://127.0.0.1:${port}/v1${path}`, { headers });
    await answer.text();
    return answer.status;
  };

  it('port: requires the key', async () => {
    await using api = await startApi();
    expect(await get(api.port, '/health', {})).toBe(200);
    expect(await get(api.port, '/host', {})).toBe(401);
    expect(await get(api.port, '/nothing', {})).toBe(401);
    expect(await get(api.port, '/sandboxes/%zz', {})).toBe(401);
    expect(await get(api.port, '/host', { 'x-api-key': 'wrong' })).toBe(401);
    expect(await get(api.port, '/host', { 'x-api-key': API_KEY })).toBe(200);
    expect(await get(api.port, '/host', { authorization: `Bearer ${API_KEY}` })).toBe(200);
    const page = { 'x-api-key': API_KEY, origin: 'http://localhost' };
    expect(await get(api.port, '/host', page)).toBe(403);
  });

  it('port: a tunnel requires the key, too', async () => {
    await using api = await startApi();
    const { id } = await api.control.create({});
    const socket = connect(api.port, '127.0.0.1');
    const answer = text(socket);
    socket.write(
      `GET /v1/sandboxes/${id}/operations HTTP/1.1\r\nhost: localhost\r\n` +
        'connection: upgrade\r\nupgrade: neurovisor-guest\r\n\r\n',
    );
    expect(codeOf(await answer)).toBe('unauthorized');
  });

  it('socket: private to this user; a live one is kept, a dead one is replaced', async () => {
    await using api = await startApi();
    expect(statSync(api.socketPath).mode & 0o777).toBe(0o600);
    await using second = await createApiServer({ control: api.control, log: silentLog });
    await expect(second.listen({ socketPath: api.socketPath })).rejects.toMatchObject({ code: 'already_running' });
    await expect(second.listen({ port: 0 })).rejects.toMatchObject({ code: 'listen_failed' });
    const dead = `${api.socketPath}.dead`;
    const dies = "require('net').createServer().listen(process.argv[1], () => process.abort())";
    const child = spawn(process.execPath, ['-e', dies, dead], { stdio: 'ignore' });
    await once(child, 'exit');
    expect(existsSync(dead)).toBe(true);
    await second.listen({ socketPath: dead });
    const file = `${api.socketPath}.file`;
    writeFileSync(file, 'not a socket');
    await expect(second.listen({ socketPath: file })).rejects.toMatchObject({ code: 'listen_failed' });
    expect(statSync(file).size).toBe(12);
    const path = `/${'x'.repeat(107)}`;
    await expect(second.listen({ socketPath: path })).rejects.toMatchObject({ code: 'listen_failed' });
    const nowhere = join(api.socketPath, 'x');
    await expect(second.listen({ socketPath: nowhere })).rejects.toMatchObject({ code: 'listen_failed' });
  });

  it('port: one in use is already_running', async () => {
    await using api = await startApi();
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const address = other.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    await expect(api.server.listen({ port })).rejects.toMatchObject({ code: 'already_running' });
    other.close();
  });
});

class WatchedClock extends FakeClock {
  readonly delays: number[] = [];

  override after(delayMs: number, run: () => void): () => void {
    this.delays.push(delayMs);
    return super.after(delayMs, run);
  }

  /** Waits until this many timers of exactly this delay were set, then lets the last one expire. */
  async runOut(ms: number, timers = 1): Promise<void> {
    await expect.poll(() => this.delays.filter((delay) => delay === ms).length).toBe(timers);
    this.advance(ms);
  }
}
