/** Webhooks against real servers of this host. */
import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { eventPoster, type WebhookOptions } from '../../src/egress/webhook.ts';

const FAILED = 'the event was not delivered; the log of the host has the cause';
const LOCAL = { address: '127.0.0.1', family: 4 };

/** A server at 127.0.0.1, and its recorded requests. */
async function listening(server: Server) {
  let connections = 0;
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    connections += 1;
    sockets.add(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    sockets,
    connections: () => connections,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

const http = (answer: RequestListener) => listening(createHttpServer(answer));

/** Posts. @returns the outcome for the caller, and the log */
async function post(url: string, options: Partial<WebhookOptions> = {}) {
  const logged: unknown[] = [];
  const log = { ...silentLog, warn: (_: string, fields?: object) => logged.push(fields) };
  const send = eventPoster({ hosts: [], log, ...options });
  const outcome = await send(url, { a: 1 }).then(
    () => 'delivered',
    (error: Error) => [error.message, error.cause],
  );
  return { outcome, logged: JSON.stringify(logged) };
}

describe('eventPoster', () => {
  it('posts JSON to a named host', async () => {
    const seen: string[] = [];
    await using server = await http(async (request, response) => {
      const { method, headers } = request;
      seen.push(`${method} ${headers['content-type']} ${headers.host} ${await text(request)}`);
      response.end('ignored');
    });
    const url = `http://127.0.0.1:${server.port}/`;
    const { outcome } = await post(url, { hosts: [`127.0.0.1:${server.port}`] });
    expect(outcome).toBe('delivered');
    expect(seen).toEqual([`POST application/json 127.0.0.1:${server.port} {"a":1}`]);
  });

  it.each(['127.0.0.1', 'localhost', '2130706433', '0x7f.1', '[::ffff:127.0.0.1]', '0.0.0.0'])(
    'never connects to %s unless it is named',
    async (host) => {
      await using server = await http((_, response) => response.end());
      const { outcome, logged } = await post(`http://${host}:${server.port}/`);
      expect(outcome).toEqual([FAILED, undefined]);
      expect(logged).toContain('NEUROVISOR_WEBHOOK_HOSTS');
      expect(server.connections()).toBe(0);
    },
  );

  it('a name is resolved once, and only the checked address is connected to', async () => {
    await using server = await http((request, response) => {
      expect(request.headers.host).toBe(`hook.example:${server.port}`);
      response.end();
    });
    const url = `http://hook.example:${server.port}/`;
    const answers = [[LOCAL], [{ address: '169.254.169.254', family: 4 }]];
    const resolve = async () => answers.shift() ?? [];
    expect((await post(url, { resolve, hosts: ['hook.example'] })).outcome).toBe('delivered');
    expect(answers).toHaveLength(1);
  });

  it('a public name with a private address is not connected to', async () => {
    await using server = await http((_, response) => response.end());
    const url = `http://hook.example:${server.port}/`;
    const { outcome, logged } = await post(url, { resolve: async () => [LOCAL] });
    expect(outcome).toEqual([FAILED, undefined]);
    expect(logged).toContain('loopback');
    expect(server.connections()).toBe(0);
  });

  it('https: the name is sent as SNI to the checked address', async () => {
    const hello = Promise.withResolvers<string>();
    await using server = await listening(
      createServer((socket) => {
        socket.once('data', (bytes) => {
          hello.resolve(bytes.toString('latin1'));
          socket.destroy();
        });
      }),
    );
    const url = `https://hook.example:${server.port}/`;
    const { outcome } = await post(url, { resolve: async () => [LOCAL], hosts: ['hook.example'] });
    expect(outcome).toEqual([FAILED, undefined]);
    expect(await hello.promise).toContain('hook.example');
  });

  it('error status, redirect, closed port and garbage: callers get the same error', async () => {
    await using server = await http((request, response) => {
      if (request.url === '/garbage') request.socket.end('garbage\r\n\r\n');
      else if (request.url === '/moved') response.writeHead(302, { location: '/' }).end();
      else response.writeHead(request.url === '/no' ? 500 : 200).end();
    });
    const closed = await http((_, response) => response.end());
    await closed[Symbol.asyncDispose]();
    const hosts = ['127.0.0.1'];
    for (const [at, cause] of [
      [`${server.port}/no`, 'status 500'],
      [`${server.port}/moved`, 'status 302'],
      [`${server.port}/garbage`, 'does not match the HTTP/1.1 protocol'],
      [`${closed.port}/`, 'ECONNREFUSED'],
    ]) {
      const { outcome, logged } = await post(`http://127.0.0.1:${at}`, { hosts });
      expect([at, outcome]).toEqual([at, [FAILED, undefined]]);
      expect(logged).toContain(cause);
    }
    expect(server.connections()).toBe(3);
  });

  it('reads no body, and no endless head', async () => {
    await using endless = await http((_, response) => {
      const more = (): void => {
        while (response.write(Buffer.alloc(65_536)));
      };
      response.on('drain', more);
      response.writeHead(200);
      more();
    });
    const hosts = ['127.0.0.1'];
    expect((await post(`http://127.0.0.1:${endless.port}/`, { hosts })).outcome).toBe('delivered');
    await expect.poll(() => [...endless.sockets].every(({ closed }) => closed)).toBe(true);
    await using head = await listening(
      createServer((socket) => {
        socket.on('error', () => undefined);
        socket.write(`HTTP/1.1 200 OK\r\nx: ${'x'.repeat(20_000)}`);
      }),
    );
    const { outcome, logged } = await post(`http://127.0.0.1:${head.port}/`, { hosts });
    expect(outcome).toEqual([FAILED, undefined]);
    expect(logged).toContain('Headers Overflow');
  });

  it('a server or resolver that never answers: times out', async () => {
    await using silent = await listening(createServer((socket) => socket.resume()));
    const clock = new FakeClock();
    const never = new Promise<never>(() => undefined);
    const posts = Promise.all([
      post(`http://127.0.0.1:${silent.port}/`, { hosts: ['127.0.0.1'], clock }),
      post('http://hook.example/', { resolve: () => never, clock }),
    ]);
    await expect.poll(() => silent.connections()).toBe(1);
    clock.advance(5_000);
    for (const { outcome, logged } of await posts) {
      expect(outcome).toEqual([FAILED, undefined]);
      expect(logged).toContain('5000 ms');
    }
    await expect.poll(() => [...silent.sockets].every(({ closed }) => closed)).toBe(true);
  });
});
