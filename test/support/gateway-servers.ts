/** Worlds for tests of the gateway: a TLS server, an HTTP server, and clients of both. */
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { expect } from 'vitest';
import { eventually } from './eventually.ts';
import {
  certificate,
  command,
  type GatewayWorld,
  gatewayWorld,
  HOST,
  listen,
  type WorldOptions,
} from './gateway-world.ts';
import { listPolicy } from './net-policy.ts';

export const ADDRESS = '192.0.2.1';
const policy = listPolicy({ names: ['a.example', 'b.example'], destinations: ['198.51.100.1:443', '198.51.100.1:80'] });
/** The alert that a refused TLS client receives. */
export const ALERT = Buffer.of(21, 3, 3, 0, 2, 2, 49);

let identity: { key: string; cert: string } | undefined;
export const undo: (() => unknown)[] = [];
/** Closes everything after each test, in reverse order. */
export async function cleanUp(): Promise<void> {
  for (const each of undo.splice(0).reverse()) await each();
}

export async function world(port: number, options: WorldOptions = {}): Promise<GatewayWorld> {
  const made = await gatewayWorld(policy, { address: ADDRESS, port }, options);
  made.pins.pin('a.example', [ADDRESS], 60);
  undo.push(async () => {
    await made.close();
    await eventually(() => expect(made.gateway.stats().connections).toBe(0));
  });
  return made;
}

/** Greets with the client's name, then echoes; to a client that offers the protocol `x`, it only greets. */
export async function tlsWorld(settings: object = {}, options = {}) {
  const made = await world(443, options);
  identity ??= certificate();
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

/** Records each request as the server parsed it, and answers with it. */
export async function httpWorld(options: WorldOptions = {}) {
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

export const sClient = (made: GatewayWorld, ...args: string[]) =>
  command('openssl', ['s_client', '-quiet', '-connect', `${HOST}:${made.port}`, '-alpn', 'x', ...args], '');
/** Connects to the gateway, whatever the URL says. */
export const curl = (made: GatewayWorld, url: string, ...args: string[]) => {
  const { host } = new URL(url);
  const to = `${host.includes(':') ? host : `${host}:80`}:${HOST}:${made.port}`;
  return command('curl', ['-sS', '--noproxy', '*', '--connect-to', to, ...args, url]);
};
export const errorOf = (reply: Buffer): string => {
  const body = reply.toString().split('\r\n\r\n').at(-1) ?? '';
  return JSON.parse(body).error.code;
};

export const GET_ALL = 'GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n';

/** Options after `--next`. */
export function nextOf(made: GatewayWorld): string[] {
  return ['-sS', '--noproxy', '*', '--connect-to', `a.example:80:${HOST}:${made.port}`];
}

/** The first flight of a real client that will be asked for another key. */
export async function helloOf(servername: string): Promise<Buffer> {
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
