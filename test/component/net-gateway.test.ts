/** The gateway with real clients (openssl, curl, Node) and real servers, on loopback. */
import { createHash, randomBytes } from 'node:crypto';
import { createServer as createHttpServer } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { createServer as createTlsServer, connect as tlsConnect } from 'node:tls';
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import type { GatewayOptions } from '../../src/net/gateway.ts';
import type { GatewayBudget } from '../../src/net/gateway-connection.ts';
import { helloMessage, records } from '../support/client-hello.ts';
import {
  certificate,
  command,
  type GatewayWorld,
  gatewayWorld,
  HOST,
  listen,
  talk,
} from '../support/gateway-world.ts';
import { listPolicy } from '../support/net-policy.ts';

const ADDRESS = '192.0.2.1';
const policy = listPolicy({
  names: ['a.example', 'b.example'],
  destinations: ['198.51.100.1:443', '198.51.100.1:80'],
});
const ALERT = Buffer.of(21, 3, 3, 0, 2, 2, 49);

let identity: { key: string; cert: string };
beforeAll(() => {
  identity = certificate();
});
const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of undo.splice(0).reverse()) await each();
});

async function world(
  port: number,
  options: Partial<GatewayOptions> & { budget?: GatewayBudget } = {},
): Promise<GatewayWorld> {
  const made = await gatewayWorld(policy, { address: ADDRESS, port }, options);
  made.pins.pin('a.example', [ADDRESS], 60);
  undo.push(async () => {
    await made.close();
    await vi.waitFor(() => expect(made.gateway.stats().connections).toBe(0));
  });
  return made;
}

/** Greets with the name that the client gave, then echoes; to one that offers the protocol `x`, it only greets. */
async function tlsWorld(settings: object = {}, options = {}) {
  const made = await world(443, options);
  const server = createTlsServer({ ...identity, ...settings, ALPNProtocols: ['x'] }, (socket) => {
    socket.on('error', () => socket.destroy());
    socket.write(`hello ${String(Reflect.get(socket, 'servername'))}\n`);
    if (socket.alpnProtocol === 'x') socket.end();
    else socket.pipe(socket);
  });
  server.on('tlsClientError', () => undefined);
  made.internet.set(`${ADDRESS}:443`, await listen(server));
  made.internet.set('198.51.100.1:443', made.internet.get(`${ADDRESS}:443`) ?? 0);
  undo.push(() => server.close());
  return made;
}

/** Remembers each request as the server understood it, and tells it back. */
async function httpWorld(options: Partial<GatewayOptions> & { budget?: GatewayBudget } = {}) {
  const made = await world(80, options);
  const seen: string[] = [];
  const server = createHttpServer((request, response) => {
    let bytes = 0;
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    request.on('end', () => {
      const line = `${request.method} ${request.headers.host} ${request.url} ${bytes}`;
      seen.push(line);
      response.end(`${line}\n`);
    });
  });
  made.internet.set(`${ADDRESS}:80`, await listen(server));
  made.internet.set('198.51.100.1:80', made.internet.get(`${ADDRESS}:80`) ?? 0);
  undo.push(
    () => server.close(),
    () => server.closeAllConnections(),
  );
  return { made, seen };
}

const sClient = (made: GatewayWorld, ...args: string[]) =>
  command(
    'openssl',
    ['s_client', '-quiet', '-connect', `${HOST}:${made.port}`, '-alpn', 'x', ...args],
    '',
  );
const curl = (made: GatewayWorld, url: string, ...args: string[]) => {
  const { host } = new URL(url);
  const to = `${host.includes(':') ? host : `${host}:80`}:${HOST}:${made.port}`;
  return command('curl', ['-sS', '--noproxy', '*', '--connect-to', to, ...args, url]);
};
const errorOf = (reply: Buffer): string => {
  const body = reply.toString().split('\r\n\r\n').at(-1) ?? '';
  return JSON.parse(body).error.code;
};

describe('Gateway: TLS', () => {
  it('joins a client to the address it called, where the name is allowed and pinned', async () => {
    const made = await tlsWorld();
    const { out } = await sClient(made, '-servername', 'a.example');
    expect(out).toContain('hello a.example');
    expect(made.dialled).toEqual([`${ADDRESS}:443`]);
    expect(made.events).toMatchObject([{ name: 'a.example', outcome: 'allowed' }]);
    const { bytesSent, bytesReceived } = made.gateway.stats();
    expect(bytesSent).toBeGreaterThan(200);
    expect(bytesReceived).toBeGreaterThan(200);
  });
  it.each([
    ['name_refused', ['-servername', 'evil.example']],
    ['not_pinned', ['-servername', 'b.example']],
    ['name_missing', ['-noservername']],
    ['tls_server_name', ['-servername', '169.254.169.254']],
    ['tls_server_name', ['-servername', '0xa9fea9fe']],
  ])('refuses with %s: s_client %j', async (reason, args) => {
    const made = await tlsWorld();
    const { code, out } = await sClient(made, ...args);
    expect(out).toContain('alert access denied');
    expect(code).not.toBe(0);
    expect(made.reasons()).toEqual([reason]);
    expect(made.dialled).toEqual([]);
  });
  it('refuses a hidden hello, and passes it where a rule allows the address', async () => {
    const made = await tlsWorld();
    const hello = records(helloMessage({ serverName: 'a.example', hasEch: true }));
    expect(await talk(made.port, [hello])).toEqual(ALERT);
    expect(made.reasons()).toEqual(['ech']);
    made.destination = { address: '198.51.100.1', port: 443 };
    await talk(made.port, [hello], true);
    expect(made.dialled).toEqual(['198.51.100.1:443']);
    const { out } = await sClient(made, '-noservername');
    expect(out).toContain('hello false');
  });
  it('refuses a metadata service whatever the name, the pin or the rule', async () => {
    const made = await tlsWorld();
    for (const address of ['169.254.169.254', '::ffff:169.254.169.254', 'fd00:ec2:0::254']) {
      made.destination = { address, port: 443 };
      made.pins.pin('a.example', [address, '169.254.169.254', 'fd00:ec2::254'], 60);
      await sClient(made, '-servername', 'a.example');
    }
    expect(made.reasons()).toEqual(Array(3).fill('address_refused'));
    expect(made.dialled).toEqual([]);
  });
  it('joins a client whose hello comes byte by byte, over records of any size', async () => {
    const made = await tlsWorld();
    for (const fragmentBytes of [0x4000, 40]) {
      const bytes = records(helloMessage({ serverName: 'a.example' }), fragmentBytes);
      // Not a hello that a server would like, but it gets there whole: the server answers with an alert of its own.
      const reply = await talk(
        made.port,
        [...bytes].map((byte) => Buffer.of(byte)),
      );
      expect(reply[0]).toBe(21);
      expect(reply).not.toEqual(ALERT);
    }
    expect(made.reasons()).toEqual(['allowed', 'allowed']);
  });
  it.each([
    ['tls_not_tls', 'GET / HTTP/1.1\r\nHost: a.example\r\n\r\n'],
    ['tls_not_tls', 'SSH-2.0-x\r\n'],
    ['tls_out_of_order', Buffer.of(22, 3, 1, 0, 4, 2, 0, 0, 0)],
    ['tls_too_long', Buffer.of(22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff)],
  ])('refuses with %s what is no hello', async (reason, bytes) => {
    const made = await tlsWorld();
    expect(await talk(made.port, [bytes])).toEqual(ALERT);
    expect(made.reasons()).toEqual([reason]);
  });
  it('passes a second hello of the same name, and refuses one of another', async () => {
    // The server wants P-384; the client offers a key for X25519 first: a retry (RFC 8446 section 4.1.4).
    const made = await tlsWorld({ ecdhCurve: 'P-384', minVersion: 'TLSv1.3' });
    const { out } = await sClient(made, '-servername', 'a.example', '-groups', 'X25519:P-384');
    expect(out).toContain('hello a.example');

    const got = await helloOf(made, 'a.example');
    const other = await helloOf(made, 'b.example');
    for (const [second, reason] of [
      [got, 'allowed'],
      [other, 'second_hello'],
    ] as const) {
      made.events.length = 0;
      // Pipelined: the second hello is there before the server has asked for it.
      await talk(made.port, [Buffer.concat([got, Buffer.of(20, 3, 3, 0, 1, 1), second])], true);
      expect(made.reasons().at(-1)).toBe(reason);
    }
  });
  it('moves much in both directions, whole, and both ends close in their own time', async () => {
    const made = await tlsWorld();
    const sent = randomBytes(4 * 1024 * 1024);
    const socket = tlsConnect({
      host: HOST,
      port: made.port,
      servername: 'a.example',
      rejectUnauthorized: false,
    });
    const hash = createHash('sha256');
    let bytes = 0;
    const ended = new Promise((resolve) => socket.once('end', resolve));
    socket.on('data', (chunk: Buffer) => {
      hash.update(chunk);
      bytes += chunk.length;
    });
    socket.end(sent);
    await ended;
    const greeting = Buffer.from('hello a.example\n');
    expect(bytes).toBe(sent.length + greeting.length);
    const expected = createHash('sha256').update(greeting).update(sent).digest('hex');
    expect(hash.digest('hex')).toBe(expected);
    await vi.waitFor(() => expect(made.gateway.stats().connections).toBe(0));
  });
});

describe('Gateway: HTTP', () => {
  it('passes requests, one after another on a connection', async () => {
    const { made, seen } = await httpWorld();
    const url = 'http://a.example/x?y=1';
    const { out } = await curl(made, url, url, '--next', ...nextOf(made), '-d', 'body');
    expect(out).toBe('GET a.example /x?y=1 0\nPOST a.example /x?y=1 4\n');
    expect(seen).toHaveLength(2);
    expect(made.dialled).toEqual([`${ADDRESS}:80`]);
  });
  it.each([
    ['name_refused', 'http://evil.example/'],
    ['not_pinned', 'http://b.example/'],
    ['not_pinned', 'http://169.254.169.254/latest/meta-data/'],
    ['name_refused', 'http://metadata.google.internal/'],
  ])('refuses with %s: curl %s', async (reason, url) => {
    const { made, seen } = await httpWorld();
    const { out } = await curl(made, url, '-w', '%{http_code}');
    expect(JSON.parse(out.slice(0, -3)).error.code).toBe(reason);
    expect(out.slice(-3)).toBe('403');
    expect(made.reasons()).toEqual([reason]);
    expect(seen).toEqual([]);
    expect(made.dialled).toEqual([]);
  });
  it.each([
    '2852039166',
    '0xa9fea9fe',
    '0251.0376.0251.0376',
    '169.254.43518',
    '169.254.169.254.',
    '[::ffff:169.254.169.254]',
    '[fd00:ec2::254]',
    'metadata.google.internal.',
    'a.example@169.254.169.254',
    'a.example:80:80',
    'a.example\t',
    'a.example, 169.254.169.254',
  ])('lets nothing out for the Host %j', async (host) => {
    const { made, seen } = await httpWorld();
    const reply = await talk(made.port, [
      `GET / HTTP/1.1\r\nHost: ${host}x\r\n\r\n`.replace('x\r', '\r'),
    ]);
    // A tab after a value is not part of it.
    if (host === 'a.example\t') expect(seen).toEqual(['GET a.example / 0']);
    else {
      expect(reply.toString()).toMatch(/^HTTP\/1\.1 40[03] /);
      expect(errorOf(reply)).toMatch(/^(?:http_host_malformed|not_pinned|name_refused)$/);
      expect(seen).toEqual([]);
    }
  });
  const GET = 'GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n';
  it.each([
    ['another Host', 'name_refused', 'GET /2 HTTP/1.1\r\nHost: evil.example\r\n\r\n'],
    [
      'absolute form',
      'http_host_mismatch',
      'GET http://evil.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n',
    ],
    ['CONNECT', 'http_connect', 'CONNECT evil.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n'],
    [
      'CL.TE',
      'http_framing',
      `POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG`,
    ],
    [
      'TE.TE',
      'http_framing',
      `POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n`,
    ],
    [
      'CL.CL',
      'http_framing',
      `POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello`,
    ],
    [
      'an upgrade',
      'http_upgrade',
      'GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n',
    ],
    ['a bare LF', 'http_line_end', 'GET / HTTP/1.1\nHost: a.example\n\n'],
    ['obs-fold', 'http_fold', 'GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\tz\r\n\r\n'],
    ['HTTP/2', 'http_version', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    [
      'TLS',
      'http_line_end',
      `${records(helloMessage({ serverName: 'a.example' })).toString('latin1')}\n`,
    ],
  ])('refuses %s with %s, first or pipelined', async (_what, reason, request) => {
    const { made, seen } = await httpWorld();
    const first = await talk(made.port, [request]);
    expect(errorOf(first)).toBe(reason);
    expect(seen).toEqual([]);
    for (const pieces of [[GET + request], [GET, request], [...(GET + request)]]) {
      seen.length = 0;
      const reply = (await talk(made.port, pieces)).toString();
      expect(seen).toEqual(['GET a.example /1 0']);
      // The answer to the first, whole, then the refusal.
      expect(reply).toMatch(
        /^HTTP\/1\.1 200 OK\r\n[\s\S]*GET a\.example \/1 0\n[\s\S]*HTTP\/1\.1 40[03] /,
      );
      expect(errorOf(Buffer.from(reply))).toBe(reason);
    }
    expect(made.gateway.stats().ended.get(reason as never)).toBe(4);
  });
  it('passes what is smuggled in a body on as a body', async () => {
    const { made, seen } = await httpWorld();
    const inner = 'GET /admin HTTP/1.1\r\nHost: evil.example\r\n\r\n';
    const post = `POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: ${inner.length}\r\n\r\n${inner}`;
    const chunked = `POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n${inner.length.toString(16)}\r\n${inner}\r\n0\r\n\r\n`;
    await talk(made.port, [post + chunked]);
    expect(seen).toEqual([`POST a.example / ${inner.length}`, `POST a.example / ${inner.length}`]);
  });
  it('lets the policy decide on methods', async () => {
    const { made, seen } = await httpWorld();
    await curl(made, 'http://a.example/', '-X', 'TRACE');
    await curl(made, 'http://a.example/', '-X', 'OPTIONS', '--request-target', '*');
    expect(seen).toEqual(['TRACE a.example / 0', 'OPTIONS a.example * 0']);
    made.policy = listPolicy({ names: ['a.example'], methods: ['GET'] });
    const { out } = await curl(made, 'http://a.example/', '-X', 'TRACE');
    expect(JSON.parse(out).error.code).toBe('request_refused');
    expect(seen).toHaveLength(2);
  });
  it('passes the absolute form on in origin form', async () => {
    const { made, seen } = await httpWorld();
    await curl(made, 'http://a.example/', '--request-target', 'http://a.example/abs?1');
    expect(seen).toEqual(['GET a.example /abs?1 0']);
  });
  it('answers 502 for a destination that takes no connections', async () => {
    const { made } = await httpWorld();
    made.internet.delete(`${ADDRESS}:80`);
    const reply = await talk(made.port, [GET]);
    expect(reply.toString()).toMatch(/^HTTP\/1\.1 502 /);
    expect(made.reasons()).toEqual(['allowed', 'unreachable']);
  });
  it('reads the protocol of other ports off the first byte', async () => {
    const { made } = await httpWorld();
    made.destination = { address: ADDRESS, port: 8443 };
    expect(await talk(made.port, [records(helloMessage({ serverName: 'evil.example' }))])).toEqual(
      ALERT,
    );
    expect(errorOf(await talk(made.port, [GET]))).toBe('port_mismatch');
  });
});

describe('Gateway: limits', () => {
  it('ends a guest that takes too long over its head, first or later', async () => {
    const clock = new FakeClock();
    const { made, seen } = await httpWorld({ clock });
    const slow = talk(made.port, ['GET / HT']);
    await vi.waitFor(() => expect(made.gateway.stats().bytesSent).toBe(8));
    clock.advance(9_999);
    expect(made.gateway.stats().ended.size).toBe(0);
    clock.advance(1);
    expect((await slow).toString()).toMatch(/^HTTP\/1\.1 408 /);

    const later = talk(made.port, ['GET / HTTP/1.1\r\nHost: a.example\r\n\r\nGE']);
    await vi.waitFor(() => expect(seen).toHaveLength(1));
    clock.advance(10_000);
    expect((await later).toString()).toMatch(/^HTTP\/1\.1 200 [\s\S]*HTTP\/1\.1 408 /);
    expect(made.gateway.stats().ended).toEqual(new Map([['head_timeout', 2]]));
  });
  it('ends a silent connection, and one whose peer never closes', async () => {
    const clock = new FakeClock();
    const made = await world(443, { clock });
    const held: Socket[] = [];
    const server = createServer({ allowHalfOpen: true }, (socket) => held.push(socket));
    made.internet.set(`${ADDRESS}:443`, await listen(server));
    undo.push(
      () => server.close(),
      () => held.map((socket) => socket.destroy()),
    );
    const done = talk(made.port, [records(helloMessage({ serverName: 'a.example' }))]);
    await vi.waitFor(() => expect(held[0]?.bytesRead).toBeGreaterThan(0));
    clock.advance(299_999);
    expect(made.gateway.stats().connections).toBe(1);
    clock.advance(2);
    expect(await done).toEqual(Buffer.alloc(0));
    expect(made.reasons()).toEqual(['allowed', 'idle_timeout']);
  });
  it('keeps no more than a little of what a slow reader has not taken', async () => {
    const made = await world(80);
    let produced = 0;
    const server = createServer((socket) => {
      socket.on('error', () => socket.destroy());
      const chunk = Buffer.alloc(64 * 1024);
      const more = (): void => {
        do produced += chunk.length;
        while (!socket.destroyed && socket.write(chunk) && produced < 256 * 1024 * 1024);
      };
      socket.on('drain', more);
      socket.once('data', more);
    });
    made.internet.set(`${ADDRESS}:80`, await listen(server));
    undo.push(() => server.close());
    const socket = connect({ host: HOST, port: made.port });
    socket.pause();
    socket.write(GET_ALL);
    // Stable for a while: everybody waits for everybody.
    let last = -1;
    await vi.waitFor(
      () => {
        const isStable = produced > 0 && produced === last;
        last = produced;
        expect(isStable).toBe(true);
      },
      { interval: 300, timeout: 20_000 },
    );
    expect(produced).toBeLessThan(64 * 1024 * 1024);
    socket.resetAndDestroy();
    await vi.waitFor(() => expect(made.gateway.stats().connections).toBe(0));
  });
  it('keeps budgets of connections and bytes, and gives connections back', async () => {
    let open = 0;
    let left = 2_000;
    const budget: GatewayBudget = {
      open: () => {
        if (open >= 1) return false;
        open += 1;
        return true;
      },
      close: () => {
        open -= 1;
      },
      spend: (_direction, bytes) => {
        left -= bytes;
        return left >= 0;
      },
    };
    const { made } = await httpWorld({ budget });
    const idle = connect({ host: HOST, port: made.port });
    await vi.waitFor(() => expect(open).toBe(1));
    expect(await talk(made.port, [GET_ALL])).toEqual(Buffer.alloc(0));
    expect(made.reasons()).toEqual(['connection_limit']);
    idle.destroy();
    await vi.waitFor(() => expect(open).toBe(0));
    expect((await talk(made.port, [GET_ALL])).toString()).toMatch(/^HTTP\/1\.1 200/);
    await vi.waitFor(() => expect(open).toBe(0));
    const reply = await talk(made.port, [`${GET_ALL.replace('GET', 'POST')}${'x'.repeat(3000)}`]);
    expect(errorOf(reply)).toBe('byte_budget');
    await vi.waitFor(() => expect(open).toBe(0));
  });
  it('drops strangers, connections that were not redirected, and those over the limit', async () => {
    const { made } = await httpWorld({ limits: { connectionsPerSandboxMax: 1 } });
    made.destination = undefined;
    await talk(made.port, [GET_ALL]);
    made.destination = { address: ADDRESS, port: 80 };
    const idle = connect({ host: HOST, port: made.port });
    undo.push(() => idle.destroy());
    await vi.waitFor(() => expect(made.gateway.stats().connections).toBe(1));
    await talk(made.port, [GET_ALL]);
    const { made: other } = await httpWorld({ whoIs: () => undefined });
    await talk(other.port, [GET_ALL]);
    expect(made.reasons()).toEqual(['no_destination', 'connection_limit']);
    expect(other.reasons()).toEqual(['unknown_sandbox']);
  });
  it('closes what a sandbox has open', async () => {
    const made = await tlsWorld();
    const socket = tlsConnect({
      host: HOST,
      port: made.port,
      servername: 'a.example',
      rejectUnauthorized: false,
    });
    socket.on('error', () => socket.destroy());
    const closed = new Promise((resolve) => socket.once('close', resolve));
    await new Promise((resolve) => socket.once('data', resolve));
    made.gateway.closeSandbox('sb-2');
    expect(made.gateway.stats().connections).toBe(1);
    made.gateway.closeSandbox('sb-1');
    await closed;
  });
});

const GET_ALL = 'GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n';

function nextOf(made: GatewayWorld): string[] {
  return ['-sS', '--noproxy', '*', '--connect-to', `a.example:80:${HOST}:${made.port}`];
}

/** The first flight of a real client that will be asked for another key. */
async function helloOf(_made: GatewayWorld, servername: string): Promise<Buffer> {
  const { promise, resolve } = Promise.withResolvers<Buffer>();
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.once('data', (bytes) => {
      resolve(bytes);
      socket.destroy();
    });
  });
  const port = await listen(server);
  const args = ['-servername', servername, '-groups', 'X25519:P-384'];
  await command('openssl', ['s_client', '-connect', `${HOST}:${port}`, ...args]);
  server.close();
  return promise;
}
