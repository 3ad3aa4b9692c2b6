/** The client of all requests that this host sends for others, against real servers of this host. */
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { OutgoingClient, type OutgoingRequest, type Route } from '../../src/egress/outgoing/client.ts';

const OWN: Route = { judge: null };

async function listening(answer: RequestListener) {
  const sockets: object[] = [];
  const server = createServer(answer);
  server.on('connection', (socket) => sockets.push(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    url: new URL(`http://127.0.0.1:${port}/`),
    connections: () => sockets.length,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

function opened(resolve?: (name: string) => Promise<{ address: string; family: number }[]>) {
  const client = new OutgoingClient({ clock: systemClock, silenceMsMax: 2000, headBytesMax: 16_384, resolve });
  return {
    send: (url: URL, more: Partial<OutgoingRequest> = {}) =>
      client.send({ url, routeOf: () => OWN, headers: {}, redirectsMax: 3, wholeMsMax: 5000, ...more }),
    [Symbol.dispose]: () => client.close(),
  };
}

async function read(answer: { bytes(max: number): AsyncIterable<Buffer> }, max = 1000): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of answer.bytes(max)) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

describe('OutgoingClient', () => {
  it('keeps the connection to a host of the owner, also after an answer without a body', async () => {
    await using server = await listening((request, response) => {
      response.writeHead(request.url === '/304' ? 304 : 200).end();
    });
    using client = opened();
    await read(await client.send(server.url));
    await turn();
    const unchanged = await client.send(new URL('/304', server.url));
    expect(unchanged.status).toBe(304);
    unchanged.destroy();
    await turn();
    await read(await client.send(server.url));
    expect(server.connections()).toBe(1);
  });

  it('opens a new connection for each request whose address is judged', async () => {
    await using server = await listening((_, response) => void response.end('x'));
    using client = opened();
    const routeOf = (): Route => ({ judge: () => undefined });
    for (let at = 0; at < 2; at += 1) expect(await read(await client.send(server.url, { routeOf }))).toBe('x');
    expect(server.connections()).toBe(2);
  });

  it('sends a request again whose kept connection the server has closed', async () => {
    let count = 0;
    await using server = await listening((request, response) => {
      count += 1;
      if (count === 2) request.socket.destroy();
      else response.end('x');
    });
    using client = opened();
    for (let at = 0; at < 2; at += 1) {
      expect(await read(await client.send(server.url))).toBe('x');
      await turn();
    }
    expect([count, server.connections()]).toEqual([3, 2]);
  });

  it('a redirect is routed anew: its address is judged, and no field of the first route is sent there', async () => {
    const seen: unknown[] = [];
    await using other = await listening((request, response) => {
      seen.push(request.headers.authorization);
      response.end('x');
    });
    await using server = await listening((request, response) => {
      seen.push(request.headers.authorization);
      response.writeHead(302, { location: other.url.href }).end();
    });
    const judged: string[] = [];
    const routeOf = (url: URL): Route =>
      url.host === server.url.host
        ? { judge: null, headers: { authorization: 'secret' } }
        : { judge: (address) => (judged.push(address) < 2 ? undefined : 'no') };
    using client = opened();
    expect(await read(await client.send(server.url, { routeOf }))).toBe('x');
    expect(seen).toEqual(['secret', undefined]);
    await expect(client.send(server.url, { routeOf })).rejects.toMatchObject({ code: 'address_refused' });
    expect([judged, other.connections()]).toEqual([['127.0.0.1', '127.0.0.1'], 1]);
  });

  it('connects to the addresses that were judged, though the name resolves to others by then', async () => {
    await using server = await listening((_, response) => void response.end('x'));
    const answers = [[{ address: '127.0.0.1', family: 4 }], [{ address: '10.0.0.1', family: 4 }]];
    using client = opened(async () => answers.shift() ?? []);
    const judge = (address: string) => (address === '127.0.0.1' ? undefined : 'no');
    const url = new URL(`http://name.test:${server.url.port}/`);
    expect(await read(await client.send(url, { routeOf: () => ({ judge }) }))).toBe('x');
    await expect(client.send(url, { routeOf: () => ({ judge }) })).rejects.toMatchObject({ code: 'address_refused' });
  });

  it('a body that is too large, or that never ends, ends with an error and its connection', async () => {
    let closed = 0;
    await using server = await listening((request, response) => {
      request.socket.once('close', () => (closed += 1));
      response.write('x'.repeat(2000));
    });
    using client = opened();
    await expect(read(await client.send(server.url))).rejects.toMatchObject({ code: 'invalid' });
    const late = client.send(server.url, { wholeMsMax: 200 });
    await expect(read(await late, 10_000)).rejects.toMatchObject({ code: 'timeout' });
    await expect.poll(() => closed).toBe(2);
  });

  it("leaves Node's own fetch its dispatcher", async () => {
    await using server = await listening((_, response) => void response.end('x'));
    using client = opened();
    await read(await client.send(server.url));
    for (const version of [1, 2]) {
      const dispatcher: unknown = Reflect.get(globalThis, Symbol.for(`undici.globalDispatcher.${version}`));
      expect(dispatcher).not.toBeInstanceOf((await import('undici')).Agent);
      expect((dispatcher as object | undefined)?.constructor.name).not.toBe('Dispatcher1Wrapper');
    }
    expect(await (await fetch(server.url)).text()).toBe('x');
  });
});
