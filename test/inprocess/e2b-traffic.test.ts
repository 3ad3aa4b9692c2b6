/** Ports of sandboxes: how clients, and hostile programs in the sandbox, can affect each other's connections. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, request as httpRequest, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';
import { type RawClient, rawClient, startRawServer } from '../support/raw-http.ts';

let world: E2bWorld;
let home: string;
let sandbox: Sandbox;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-e2b-'));
  world = await openE2bWorld({ home });
  sandbox = await Sandbox.create('agent', world.client);
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  await rm(home, { recursive: true, force: true });
});

const head = (port: number, first = 'GET / HTTP/1.1', ...more: string[]): string =>
  [first, `Host: ${sandbox.getHost(port)}`, ...more, '', ''].join('\r\n');

/** Sends two requests on one connection; the second is for the control plane. */
async function askAndAskAgain(port: number, first?: string, ...more: string[]): Promise<RawClient> {
  const next = 'GET /health HTTP/1.1\r\nHost: localhost\r\nX-Next: 1\r\n\r\n';
  return await rawClient(world.url, head(port, first, ...more) + next);
}

async function listening(server: Server, host = '127.0.0.1'): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  return (server.address() as AddressInfo).port;
}

function closed(server: Server): void {
  server.close();
  server.closeAllConnections();
}

/** Writes as fast as the other side accepts. */
function pour(socket: Socket, onTaken: (bytes: number) => void): void {
  const block = Buffer.alloc(256 * 1024, 'x');
  const more = (): void => {
    if (socket.destroyed) return;
    onTaken(block.length);
    if (socket.write(block)) setImmediate(more);
    else socket.once('drain', more);
  };
  more();
}

/** Sent by E2B's clients; not a template literal here. */
const MASK = `localhost:$\{PORT}`;

describe('a hostile program', () => {
  const BROKEN: readonly [string, string][] = [
    ['no HTTP', 'SSH-2.0-OpenSSH\r\n\r\n'],
    ['nothing', ''],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'],
    ['a length that is none', 'HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na'],
    ['length and chunks', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['a bare line feed in a header', 'HTTP/1.1 200 OK\r\nA: b\nContent-Length: 0\r\n\r\n'],
    ['a folded header', 'HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\nContent-Length: 0\r\n\r\n'],
    ['a NUL in a header', 'HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 0\r\n\r\n'],
    ['a space before a colon', 'HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\na'],
    ['a status that is none', 'HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n'],
    ['a huge head', `HTTP/1.1 200 OK\r\nA: ${'b'.repeat(200_000)}\r\n\r\n`],
    ['an upgrade without a request', 'HTTP/1.1 101 Hi\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n'],
  ];
  it.each(BROKEN)('that answers with %s gets 502 for its client, whose connection continues', async (_what, bytes) => {
    await using server = await startRawServer(bytes);
    using client = await askAndAskAgain(server.port);
    const text = await client.until('HTTP/1.1 204');
    expect(text.startsWith('HTTP/1.1 502 ')).toBe(true);
    expect(text).toContain('"code":502');
    expect(text.match(/HTTP\/1\.1 /g)).toHaveLength(2);
  });

  const CUT: readonly [string, string][] = [
    ['less than its length', 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc'],
    ['a chunk that is cut', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc'],
    ['a broken chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nXYZ\r\n\r\n'],
  ];
  it.each(CUT)('that sends %s ends the client connection', async (_what, bytes) => {
    await using server = await startRawServer(bytes);
    using client = await askAndAskAgain(server.port);
    const text = await client.ended();
    expect(text).toContain('HTTP/1.1 200 OK');
    expect(text).not.toContain('HTTP/1.1 204');
    expect(text.endsWith('0\r\n\r\n')).toBe(false);
  });

  it('that sends a second answer after the first reaches no client with it', async () => {
    const forged = 'HTTP/1.1 200 Forged\r\nContent-Length: 6\r\n\r\nforged';
    await using server = await startRawServer(`HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok${forged}`);
    using client = await askAndAskAgain(server.port);
    const text = await client.until('HTTP/1.1 204');
    expect(text).toContain('ok');
    expect(text).not.toContain('orged');
  });

  it.each([
    ['HEAD / HTTP/1.1', 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged'],
    ['GET / HTTP/1.1', 'HTTP/1.1 204 No\r\nContent-Length: 6\r\n\r\nforged'],
    ['GET / HTTP/1.1', 'HTTP/1.1 304 No\r\nContent-Length: 6\r\n\r\nforged'],
  ])('that sends a forbidden body (%s) reaches no client with it', async (first, bytes) => {
    await using server = await startRawServer(bytes);
    using client = await askAndAskAgain(server.port, first);
    const text = await client.until('HTTP/1.1 204 No Content');
    expect(text).not.toContain('forged');
    expect(text.match(/HTTP\/1\.1 /g)).toHaveLength(2);
  });

  it('can not turn a connection raw by refusing an upgrade', async () => {
    const bytes = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nno';
    await using server = await startRawServer((socket) => void socket.write(bytes));
    using client = await askAndAskAgain(server.port, undefined, 'Connection: Upgrade', 'Upgrade: websocket');
    const text = await client.ended();
    expect(text).toContain('Connection: close');
    expect(text.endsWith('no')).toBe(true);
    expect(server.received[0]).not.toContain('X-Next');
  });

  it('gets no header of another connection, and sends none', async () => {
    const answer =
      'HTTP/1.1 200 Very Fine\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\n' +
      'Proxy-Authenticate: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nbody';
    await using server = await startRawServer(answer);
    using client = await rawClient(
      world.url,
      head(server.port, 'GET /p?q HTTP/1.1', 'Connection: keep-alive, X-Mine', 'X-Mine: 1', 'Forwarded: x'),
    );
    const text = await client.until('\r\n0\r\n\r\n');
    expect(text).toMatch(/^HTTP\/1\.1 200 Very Fine\r\n/);
    expect(text).not.toMatch(/hop|proxy-auth|timeout=1|connection: close/i);
    expect(text).toMatch(/Set-Cookie: a=1\r\nSet-Cookie: b=2/);
    expect(server.received[0]).toMatch(/^GET \/p\?q HTTP\/1\.1\r\nHost: /);
    expect(server.received[0]).not.toMatch(/mine|forwarded|keep-alive/i);
  });
});

describe('a hostile client', () => {
  it.each([
    ['two hosts', 'GET / HTTP/1.1', 'Host: other'],
    ['an absolute target', 'GET http://other/ HTTP/1.1', 'A: b'],
    ['length and chunks', 'POST / HTTP/1.1', 'Content-Length: 4\r\nTransfer-Encoding: chunked'],
    ['two lengths', 'POST / HTTP/1.1', 'Content-Length: 4\r\nContent-Length: 5'],
    ['an unknown coding', 'POST / HTTP/1.1', 'Transfer-Encoding: xchunked'],
    ['a body with an upgrade', 'POST / HTTP/1.1', 'Content-Length: 4\r\nConnection: upgrade\r\nUpgrade: x'],
  ])('that sends %s gets 400, and the program gets nothing', async (_what, first, more) => {
    await using server = await startRawServer('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
    using client = await rawClient(world.url, `${head(server.port, first, more)}0\r\n\r\n`);
    expect(await client.until('\r\n\r\n')).toMatch(/^HTTP\/1\.1 400 /);
    expect(server.received).toEqual([]);
  });
});

describe('requests', () => {
  it('reach servers at 0.0.0.0, 127.0.0.1 and only ::1, by name and by headers', async () => {
    for (const host of ['0.0.0.0', '127.0.0.1', '::1']) {
      await using server = await startRawServer('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok', { host });
      const headers = { 'e2b-sandbox-id': sandbox.sandboxId, 'e2b-sandbox-port': `${server.port}` };
      expect(await (await fetch(world.url, { headers })).text()).toBe('ok');
      using client = await rawClient(world.url, head(server.port));
      expect(await client.until('ok')).toContain('200 OK');
    }
  });

  it('and answers have trailers', async () => {
    const seen: NodeJS.Dict<string>[] = [];
    const server = createServer((request, response) => {
      request.resume().once('end', () => {
        seen.push(request.trailers);
        response.writeHead(200, { trailer: 'x-sum' });
        response.write('body');
        response.addTrailers({ 'x-sum': '7', 'content-type': 'text/html' });
        response.end();
      });
    });
    const port = await listening(server);
    const chunks = '3\r\nabc\r\n0\r\nX-Check: 1\r\nAuthorization: x\r\n\r\n';
    using client = await rawClient(world.url, head(port, 'POST / HTTP/1.1', 'Transfer-Encoding: chunked') + chunks);
    expect(await client.until('x-sum: 7\r\n\r\n')).not.toContain('text/html');
    expect(seen).toEqual([{ 'x-check': '1' }]);
    closed(server);
  });

  it('get hints before the answer, but not in HTTP/1.0', async () => {
    const server = createServer((_request, response) => {
      response.writeEarlyHints({ link: '</a.css>; rel=preload' });
      response.end('ok');
    });
    const port = await listening(server);
    using client = await rawClient(world.url, head(port));
    expect(await client.until('ok')).toMatch(/^HTTP\/1\.1 103 Early Hints\r\nLink: <\/a\.css>/i);
    using old = await rawClient(world.url, head(port, 'GET / HTTP/1.0'));
    expect(await old.ended()).toMatch(/^HTTP\/1\.1 200 /);
    closed(server);
  });

  it('get no invalid hints, and the daemon continues', async () => {
    const hint = `HTTP/1.1 103 Early Hints\r\nLink: <x>${';a=b'.repeat(64)}"\r\n\r\n`;
    await using server = await startRawServer(`${hint}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok`);
    using client = await rawClient(world.url, head(server.port));
    expect(await client.until('ok')).toMatch(/^HTTP\/1\.1 200 /);
  });

  it('get an early refusal of a body that is still being sent', async () => {
    await using server = await startRawServer((socket) => {
      socket.end('HTTP/1.1 413 Large\r\nContent-Length: 3\r\n\r\nbig');
      socket.destroySoon();
    });
    using client = await rawClient(
      world.url,
      `${head(server.port, 'POST / HTTP/1.1', 'Content-Length: 100000000')}${'x'.repeat(100_000)}`,
    );
    expect(await client.until('big')).toContain('HTTP/1.1 413');
  });

  it('mask the host', async () => {
    const masked = await Sandbox.create('agent', { ...world.client, network: { maskRequestHost: MASK } });
    await using server = await startRawServer('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    using client = await rawClient(world.url, `GET / HTTP/1.1\r\nHost: ${masked.getHost(server.port)}\r\n\r\n`);
    await client.until('ok');
    expect(server.received[0]).toContain(`Host: localhost:${server.port}\r\n`);
    expect(server.received[0]).toContain(`X-Forwarded-Host: ${masked.getHost(server.port)}\r\n`);
    await masked.kill();
  });

  it('need the token of a sandbox without public traffic', async () => {
    const closedOne = await Sandbox.create('agent', { ...world.client, network: { allowPublicTraffic: false } });
    await using server = await startRawServer('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    const ask = async (token: Record<string, string>, accept = '*/*') =>
      await fetch(world.url, {
        headers: { 'e2b-sandbox-id': closedOne.sandboxId, 'e2b-sandbox-port': `${server.port}`, accept, ...token },
      });
    const token = closedOne.trafficAccessToken ?? '';
    const missing = await ask({});
    expect([missing.status, await missing.json()]).toEqual([
      403,
      expect.objectContaining({ code: 403, message: expect.stringContaining('is missing') }),
    ]);
    const page = await ask({ 'e2b-traffic-access-token': 'wrong' }, 'text/html');
    expect(page.headers.get('content-type')).toContain('text/html');
    expect(await page.text()).toContain('is invalid');
    expect(await (await ask({ 'e2b-traffic-access-token': token })).text()).toBe('ok');
    expect(server.received[0]).not.toContain(token);
    await closedOne.kill();
  });

  it('resume a paused sandbox that allows it, and only that', async () => {
    for (const enabled of [true, false]) {
      const paused = await Sandbox.create('agent', { ...world.client, autoResume: { enabled } } as never);
      await using server = await startRawServer('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      await paused.pause();
      const headers = { 'e2b-sandbox-id': paused.sandboxId, 'e2b-sandbox-port': `${server.port}` };
      const answer = await fetch(world.url, { headers });
      expect(answer.status).toBe((await world.control.get(paused.sandboxId)).autoResume ? 200 : 502);
      await answer.text();
      await paused.kill();
    }
  });

  it('are refused beyond a sandbox’s connection limit', async () => {
    await using server = await startRawServer(() => undefined);
    const clients = await Promise.all(Array.from({ length: 97 }, () => rawClient(world.url, head(server.port))));
    const refused = await Promise.race(clients.map((client) => client.until('too many concurrent')));
    expect(refused).toContain('HTTP/1.1 429');
    expect((await sandbox.commands.run('echo still')).stdout).toBe('still\n');
    for (const { socket } of clients) socket.destroy();
  });
});

describe('streams', () => {
  it('arrive piece by piece', async () => {
    const { promise: isFirstRead, resolve: firstRead } = Promise.withResolvers<void>();
    const server = createServer((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('data: 1\n\n');
      void isFirstRead.then(() => response.end('data: 2\n\n'));
    });
    const port = await listening(server);
    using client = await rawClient(world.url, head(port));
    expect(await client.until('data: 1')).not.toContain('data: 2');
    firstRead();
    await client.until('data: 2');
    closed(server);
  });

  it('of any size pass in both directions, whole', async () => {
    const BYTES = 48 * 1024 * 1024;
    const server = createServer((request, response) => request.pipe(response));
    const port = await listening(server);
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const outgoing = httpRequest(
      { host: '127.0.0.1', port: new URL(world.url).port, method: 'POST', headers: { host: sandbox.getHost(port) } },
      resolve,
    );
    outgoing.once('error', reject);
    const block = Buffer.alloc(1024 * 1024, 'x');
    Readable.from(Array.from({ length: BYTES / block.length }, () => block)).pipe(outgoing);
    let received = 0;
    for await (const bytes of await promise) received += (bytes as Buffer).length;
    expect(received).toBe(BYTES);
    closed(server);
  });

  it('wait for a client, and for a program, that does not read', async () => {
    let given = 0;
    await using server = await startRawServer((socket, first) => {
      socket.pause();
      if (first.startsWith('GET /ok')) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      if (first.startsWith('GET /all')) {
        socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n');
        pour(socket, (bytes) => {
          given += bytes;
        });
      }
    });
    using reader = await rawClient(world.url);
    reader.socket.pause();
    reader.socket.write(head(server.port, 'GET /all HTTP/1.1'));
    using writer = await rawClient(world.url, head(server.port, 'POST / HTTP/1.1', 'Content-Length: 9999999999'));
    let taken = 0;
    pour(writer.socket, (bytes) => {
      taken += bytes;
    });
    // Others are served meanwhile, and the two buffer no more than their streams' limits.
    for (let count = 0; count < 100; count += 1) {
      using other = await rawClient(world.url, head(server.port, 'GET /ok HTTP/1.1'));
      await other.until('\r\nok');
    }
    expect(given).toBeGreaterThan(0);
    expect(given).toBeLessThan(64 * 1024 * 1024);
    expect(taken).toBeGreaterThan(0);
    expect(taken).toBeLessThan(64 * 1024 * 1024);
  });

  it('upgrade, pass bytes both ways, and half-close', async () => {
    await using server = await startRawServer((socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\nX-A: 1\r\n\r\nhello');
      socket.once('end', () => socket.end('bye'));
    });
    using client = await rawClient(world.url, head(server.port, undefined, 'Connection: upgrade', 'Upgrade: echo'));
    const text = await client.until('hello');
    expect(text).toMatch(/^HTTP\/1\.1 101 Switching Protocols\r\n/);
    expect(text).toContain('X-A: 1\r\n');
    client.socket.end('mine');
    expect(await client.ended()).toMatch(/hellobye$/);
    expect(server.received[0]).toMatch(/mine$/);
  });

  it('carry websockets of a browser-like client', async () => {
    const { promise: isOpen, resolve, reject } = Promise.withResolvers<void>();
    const { createHash } = await import('node:crypto');
    await using server = await startRawServer((socket, request) => {
      const key = /sec-websocket-key: (.*)\r\n/i.exec(request)?.[1] ?? '';
      const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
      );
      socket.write(Buffer.from([0x81, 2, 0x68, 0x69]));
    });
    const { WebSocket, Agent } = await import('undici');
    const dispatcher = new Agent();
    const socket = new WebSocket(world.url.replace('http', 'ws'), {
      dispatcher,
      headers: { 'e2b-sandbox-id': sandbox.sandboxId, 'e2b-sandbox-port': `${server.port}` },
    });
    const said = new Promise<unknown>((done) => socket.addEventListener('message', ({ data }) => done(data)));
    socket.addEventListener('open', () => resolve());
    socket.addEventListener('error', () => reject(new Error('no websocket')));
    await isOpen;
    expect(await said).toBe('hi');
    for (const one of server.sockets) one.destroy();
    await dispatcher.destroy();
  });

  it('end for the program when the client disconnects', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const server = createServer((_request, response) => {
      response.once('close', resolve);
      response.write('a');
    });
    const port = await listening(server);
    using client = await rawClient(world.url, head(port));
    await client.until('a');
    client.socket.destroy();
    await promise;
    closed(server);
  });
});

it('no error is logged', () => expect(world.errors).toEqual([]));
