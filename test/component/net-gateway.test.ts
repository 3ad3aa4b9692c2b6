/** The gateway with real TLS clients and servers, and its limits, on loopback. */
import { createHash, randomBytes } from 'node:crypto';
import { connect, createServer, type Socket } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import { FairShare } from '../../src/base/fairness/fair-share.ts';
import { dialDirectly } from '../../src/egress/net/gateway/gateway.ts';
import { helloMessage, records } from '../support/client-hello.ts';
import { eventually } from '../support/eventually.ts';
import {
  ADDRESS,
  ALERT,
  cleanUp,
  GET_ALL,
  helloOf,
  httpWorld,
  sClient,
  tlsWorld,
  undo,
  world,
} from '../support/gateway-servers.ts';
import { gatewayWorld, HOST, listen, talk } from '../support/gateway-world.ts';
import { listPolicy } from '../support/net-policy.ts';

afterEach(cleanUp);

describe('Gateway: TLS', () => {
  it('connects a client to its destination if the name is allowed and pinned', async () => {
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
  it('refuses an encrypted hello (ECH), unless a rule allows the address', async () => {
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
  it('refuses a metadata service for any name, pin or rule', async () => {
    const made = await tlsWorld();
    for (const address of ['169.254.169.254', '::ffff:169.254.169.254', 'fd00:ec2:0::254']) {
      made.destination = { address, port: 443 };
      made.pins.pin('a.example', [address, '169.254.169.254', 'fd00:ec2::254'], 60);
      await sClient(made, '-servername', 'a.example');
    }
    expect(made.reasons()).toEqual(Array(3).fill('address_refused'));
    expect(made.dialled).toEqual([]);
  });
  it('connects a client whose hello comes byte by byte, in records of any size', async () => {
    const made = await tlsWorld();
    for (const fragmentBytes of [0x4000, 40]) {
      const bytes = records(helloMessage({ serverName: 'a.example' }), fragmentBytes);
      // An unacceptable hello that arrives whole: the server answers with its own alert.
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
  ])('refuses with %s bytes that are no hello', async (reason, bytes) => {
    const made = await tlsWorld();
    expect(await talk(made.port, [bytes])).toEqual(ALERT);
    expect(made.reasons()).toEqual([reason]);
  });
  it('passes a second hello with the same name, and refuses one with another', async () => {
    // The server wants P-384; the client offers a key for X25519 first: a retry (RFC 8446 section 4.1.4).
    const made = await tlsWorld({ ecdhCurve: 'P-384', minVersion: 'TLSv1.3' });
    const { out } = await sClient(made, '-servername', 'a.example', '-groups', 'X25519:P-384');
    expect(out).toContain('hello a.example');

    const got = await helloOf('a.example');
    const other = await helloOf('b.example');
    for (const [second, reason] of [
      [got, 'allowed'],
      [other, 'second_hello'],
    ] as const) {
      made.events.length = 0;
      // Pipelined: the second hello arrives before the server has requested it.
      await talk(made.port, [Buffer.concat([got, Buffer.of(20, 3, 3, 0, 1, 1), second])], true);
      expect(made.reasons().at(-1)).toBe(reason);
    }
  });
  it('forwards bytes after the hello, and then the end, once the server has begun', async () => {
    const made = await world(443);
    const received: Buffer[] = [];
    let end = '';
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => socket.destroy());
      socket.on('data', (bytes) => received.push(bytes));
      socket.on('end', () => {
        end = Buffer.concat(received).toString('hex');
        socket.end();
      });
      // Sent only after the hello: a server that begins with an alert requests no second hello.
      socket.once('data', () => socket.write(Buffer.of(21)));
    });
    made.internet.set(`${ADDRESS}:443`, await listen(server));
    undo.push(() => server.close());
    const bytes = Buffer.concat([records(helloMessage({ serverName: 'a.example' })), randomBytes(999)]);
    expect(await talk(made.port, [bytes], true)).toEqual(Buffer.of(21));
    expect(end).toBe(bytes.toString('hex'));
  });
  it('passes much data in both directions, complete, and lets both ends close independently', async () => {
    const made = await tlsWorld();
    const sent = randomBytes(4 * 1024 * 1024);
    const socket = tlsConnect({ host: HOST, port: made.port, servername: 'a.example', rejectUnauthorized: false });
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
    await eventually(() => expect(made.gateway.stats().connections).toBe(0));
  });
});

describe('Gateway: limits', () => {
  it('ends a guest that sends its first or a later head too slowly', async () => {
    const clock = new FakeClock();
    const { made, seen } = await httpWorld({ clock });
    const slow = talk(made.port, ['GET / HT']);
    await eventually(() => expect(made.gateway.stats().bytesSent).toBe(8));
    clock.advance(9_999);
    expect(made.gateway.stats().ended.size).toBe(0);
    clock.advance(1);
    expect((await slow).toString()).toMatch(/^HTTP\/1\.1 408 /);

    const later = talk(made.port, ['GET / HTTP/1.1\r\nHost: a.example\r\n\r\nGE']);
    await eventually(() => expect(seen).toHaveLength(1));
    clock.advance(10_000);
    expect((await later).toString()).toMatch(/^HTTP\/1\.1 200 [\s\S]*HTTP\/1\.1 408 /);
    expect(made.gateway.stats().ended).toEqual(new Map([['head_timeout', 2]]));
  });
  it('ends an idle connection, and one whose peer never closes', async () => {
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
    await eventually(() => expect(held[0]?.bytesRead).toBeGreaterThan(0));
    clock.advance(299_999);
    expect(made.gateway.stats().connections).toBe(1);
    clock.advance(2);
    expect(await done).toEqual(Buffer.alloc(0));
    expect(made.reasons()).toEqual(['allowed', 'idle_timeout']);
  });
  it('buffers little for a slow reader', async () => {
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
    // Stable for a while: each side waits for the other.
    let last = -1;
    const isStable = (): boolean => {
      const is = produced > 0 && produced === last;
      last = produced;
      return is;
    };
    await expect.poll(isStable, { interval: 300 }).toBe(true);
    expect(produced).toBeLessThan(64 * 1024 * 1024);
    socket.resetAndDestroy();
    await eventually(() => expect(made.gateway.stats().connections).toBe(0));
  });
  it('drops unknown sources, connections without redirect, and those beyond the limit', async () => {
    const limits = { sumMax: 2, ownMax: 1, guaranteed: 1, places: 1 };
    const { made } = await httpWorld({ connections: new FairShare(limits) });
    made.destination = undefined;
    await talk(made.port, [GET_ALL]);
    made.destination = { address: ADDRESS, port: 80 };
    const idle = connect({ host: HOST, port: made.port });
    undo.push(() => idle.destroy());
    await eventually(() => expect(made.gateway.stats().connections).toBe(1));
    await talk(made.port, [GET_ALL]);
    const { made: other } = await httpWorld({ findSandbox: () => undefined });
    await talk(other.port, [GET_ALL]);
    expect(made.reasons()).toEqual(['no_destination', 'connection_limit']);
    expect(other.reasons()).toEqual(['unknown_sandbox']);
  });
  it('shares connections among gateways: a flood of many sandboxes leaves each other one its guarantee', async () => {
    const limits = { sumMax: 40, ownMax: 10, guaranteed: 2, places: 10 };
    const connections = new FairShare(limits);
    const flood = async (id: string): Promise<void> => {
      const { made } = await httpWorld({ connections, id });
      for (let i = 0; i < limits.ownMax; i += 1) {
        const socket = connect({ host: HOST, port: made.port });
        socket.on('error', () => socket.destroy());
        undo.push(() => socket.destroy());
      }
      await eventually(() => expect(made.gateway.stats().accepted).toBe(limits.ownMax));
    };
    for (let i = 0; i < 8; i += 1) await flood(`hostile-${i}`);
    expect(connections.held).toBeLessThanOrEqual(limits.sumMax);
    expect(connections.refused).toBeGreaterThan(0);
    const { made } = await httpWorld({ connections, id: 'polite' });
    const answers = await Promise.all([1, 2].map(() => talk(made.port, [GET_ALL])));
    for (const answer of answers) expect(answer.toString()).toMatch(/^HTTP\/1\.1 200/);
    await eventually(() => expect(connections.heldBy('polite')).toBe(0));
  });
  it('closeSandbox: closes all connections of a sandbox', async () => {
    const made = await tlsWorld();
    const socket = tlsConnect({ host: HOST, port: made.port, servername: 'a.example', rejectUnauthorized: false });
    socket.on('error', () => socket.destroy());
    const closed = new Promise((resolve) => socket.once('close', resolve));
    await new Promise((resolve) => socket.once('data', resolve));
    made.gateway.closeSandbox('sb-2');
    expect(made.gateway.stats().connections).toBe(1);
    made.gateway.closeSandbox('sb-1');
    await closed;
  });
  it('never connects to a service of the host itself, whatever a rule allows', async () => {
    const heard: string[] = [];
    const calls: Promise<unknown>[] = [];
    const server = createServer((socket) => {
      socket.on('error', () => socket.destroy());
      socket.on('data', (bytes) => heard.push(String(bytes)));
      calls.push(new Promise((resolve) => socket.once('close', resolve)));
      socket.end('secret');
    });
    const port = await listen(server);
    undo.push(() => server.close());
    const policy = listPolicy({ destinations: [`${HOST}:${port}`] });
    const made = await gatewayWorld(policy, { address: HOST, port }, { dial: dialDirectly });
    undo.push(() => made.close());
    const head = `GET / HTTP/1.1\r\nHost: ${HOST}:${port}\r\n\r\n`;
    expect(String(await talk(made.port, [head]))).not.toContain('secret');
    expect(made.reasons()).toEqual(['allowed']);
    expect(calls).toHaveLength(1);
    await Promise.all(calls);
    expect(heard).toEqual([]);
  });
  it('judgeSandbox: a narrower policy ends exactly the connections that it forbids', async () => {
    const made = await tlsWorld();
    const calls = ['a.example', 'a.example'].map((servername) =>
      tlsConnect({ host: HOST, port: made.port, servername, rejectUnauthorized: false }),
    );
    for (const socket of calls) {
      socket.on('error', () => socket.destroy());
      await new Promise((resolve) => socket.once('data', resolve));
    }
    made.gateway.judgeSandbox('sb-1');
    expect(made.gateway.stats().connections).toBe(2);
    const echo = new Promise((resolve) => calls[0]?.once('data', resolve));
    calls[0]?.write('still here');
    expect(String(await echo)).toBe('still here');
    made.policy = listPolicy({ names: ['b.example'] });
    made.gateway.judgeSandbox('sb-2');
    expect(made.gateway.stats().connections).toBe(2);
    const closed = calls.map((socket) => new Promise((resolve) => socket.once('close', resolve)));
    made.gateway.judgeSandbox('sb-1');
    await Promise.all(closed);
  });
});
