/** Ports whose programs serve HTTPS themselves. */
import { mkdtemp, rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { createServer } from 'node:https';
import { createServer as createPlain } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';
import { certificate, listen } from '../support/gateway-world.ts';
import { rawClient } from '../support/raw-http.ts';

let world: E2bWorld;
let home: string;
let secured: number;
const heard: IncomingMessage[] = [];
const server = createServer(certificate('any.example'), (request, response) => {
  heard.push(request);
  request.pipe(response);
});
server.on('tlsClientError', () => undefined);
server.on('upgrade', (_request, socket) => {
  socket.write('HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello ');
  socket.on('data', (bytes: Buffer) => socket.end(bytes));
});

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-e2b-'));
  world = await openE2bWorld({ home });
  secured = await listen(server);
});
afterAll(async () => {
  server.close();
  server.closeAllConnections();
  await world[Symbol.asyncDispose]();
  await rm(home, { recursive: true, force: true });
});

const make = (httpsPorts: number[]) => Sandbox.create('agent', { ...world.client, network: { httpsPorts } });
const head = (sandbox: Sandbox, port: number, first: string, ...more: string[]): string =>
  [first, `Host: ${sandbox.getHost(port)}`, ...more, '', ''].join('\r\n');

describe('httpsPorts', () => {
  it('a program that serves HTTPS is reached by HTTP, whatever its certificate', async () => {
    const sandbox = await make([secured]);
    const more = ['Content-Length: 4', 'Connection: close'];
    using client = await rawClient(world.url, `${head(sandbox, secured, 'POST /path?q HTTP/1.1', ...more)}body`);
    expect(await client.ended()).toMatch(/^HTTP\/1\.1 200 OK[\s\S]*body/);
    expect(heard.at(-1)?.url).toBe('/path?q');
    expect(heard.at(-1)?.headers.host).toBe(sandbox.getHost(secured));
    expect((await sandbox.getInfo()).network).toEqual({ httpsPorts: [secured] });
  });
  it('an upgraded connection passes both ways', async () => {
    const sandbox = await make([secured]);
    const more = ['Connection: Upgrade', 'Upgrade: x'];
    using client = await rawClient(world.url, `${head(sandbox, secured, 'GET / HTTP/1.1', ...more)}world`);
    expect(await client.ended()).toMatch(/^HTTP\/1\.1 101 [\s\S]*hello world$/);
  });
  it('stay when the network changes, and other ports are unaffected', async () => {
    const sandbox = await make([secured]);
    await sandbox.updateNetwork({ denyOut: ['8.8.8.8/32'] });
    expect((await sandbox.getInfo()).network?.httpsPorts).toEqual([secured]);
    const other = await make([1]);
    using client = await rawClient(world.url, head(other, secured, 'GET / HTTP/1.1', 'Connection: close'));
    expect(await client.ended()).toMatch(/^HTTP\/1\.1 (?:400|502) /);
  });
  it('a program there without TLS, or one that disconnects during the handshake, gives its client 502', async () => {
    for (const bytes of ['HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok', '', '\x16\x03\x03\xff\xff']) {
      const plain = createPlain((socket) => {
        socket.on('error', () => socket.destroy());
        socket.once('data', () => socket.end(bytes, 'latin1'));
      });
      const port = await listen(plain);
      const sandbox = await make([port]);
      using client = await rawClient(world.url, head(sandbox, port, 'GET / HTTP/1.1', 'Connection: close'));
      expect(await client.ended()).toMatch(/^HTTP\/1\.1 502 /);
      plain.close();
    }
    expect(world.errors).toEqual([]);
  });
  it('can not be the sandbox’s own ports', async () => {
    for (const port of [49_983, 49_999]) await expect(make([port])).rejects.toThrow('400');
  });
});
