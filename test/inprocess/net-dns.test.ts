/** The resolver against a real client (c-ares, in Node) and an upstream that can lie, on loopback. */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { FakeClock, systemClock } from '../../src/base/clock.ts';
import { SandboxNames } from '../../src/egress/net/dns/answers.ts';
import {
  type DnsQuery,
  type DnsRecord,
  encodeQuery,
  encodeReply,
  parseAnswer,
  parseQuery,
} from '../../src/egress/net/dns/message.ts';
import { DnsServer, type DnsServerOptions } from '../../src/egress/net/dns/server.ts';
import { ListenError } from '../../src/egress/net/listen-error.ts';
import { Pins } from '../../src/egress/net/policy/pins.ts';
import { eventually } from '../support/eventually.ts';
import { listPolicy } from '../support/net-policy.ts';

const HOST = '127.0.0.1';
const policy = listPolicy({
  names: ['a.example', 'b.example', '*.w.example'],
  privatePrefixes: ['10.', '127.', '192.168.'],
});

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of undo.splice(0).reverse()) await each();
});

type Answer = (query: DnsQuery, transport: 'udp' | 'tcp') => readonly Uint8Array[];
const records = (query: DnsQuery, ...addresses: string[]): Uint8Array =>
  encodeReply(
    query,
    { code: 0, records: addresses.map((address): DnsRecord => ({ type: 'A', name: '', ttlSeconds: 60, address })) },
    0xffff,
  );
const lowered = (query: DnsQuery): DnsQuery => ({
  ...query,
  wire: Uint8Array.from(query.wire, (byte) => (byte > 64 && byte < 91 ? byte + 32 : byte)),
});

/** An upstream on both transports that records its queries. */
async function upstream(answer: Answer) {
  const asked: string[] = [];
  const read = (bytes: Uint8Array): DnsQuery => {
    const parsed = parseQuery(bytes);
    if (!parsed.ok) throw new Error(`the upstream was asked nonsense: ${parsed.reason}`);
    asked.push(parsed.value.question.name);
    return parsed.value;
  };
  const udp: UdpSocket = createSocket('udp4');
  udp.on('message', (bytes, from) => {
    for (const reply of answer(read(bytes), 'udp')) udp.send(reply, from.port, from.address);
  });
  const tcp: Server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.on('data', (bytes) => {
      for (const reply of answer(read(bytes.subarray(2)), 'tcp')) {
        const length = Buffer.alloc(2);
        length.writeUInt16BE(reply.length);
        // Sent in pieces, as TCP may deliver it.
        for (const byte of Buffer.concat([length, reply])) socket.write(Buffer.of(byte));
      }
    });
  });
  // TCP chooses the port: outgoing connections use up TCP ports, but hardly UDP ports.
  await once(tcp.listen(0, HOST), 'listening');
  const { port } = tcp.address() as AddressInfo;
  udp.bind(port, HOST);
  await once(udp, 'listening');
  undo.push(
    () => udp.close(),
    () => new Promise((resolve) => tcp.close(resolve)),
  );
  return { asked, at: { address: HOST, port } };
}

async function world(answer: Answer, options: Partial<DnsServerOptions> = {}) {
  const up = await upstream(answer);
  const pins = new Pins(systemClock);
  const names = new SandboxNames({ policy, pins, clock: systemClock });
  const server = new DnsServer({
    address: HOST,
    port: 0,
    upstreams: [up.at],
    findSandbox: (address) => (address === HOST ? names : undefined),
    ...options,
  });
  const port = await server.listen();
  undo.push(() => server.close());
  const resolver = new Resolver({ tries: 1 });
  resolver.setServers([`${HOST}:${port}`]);
  return { asked: up.asked, pins, names, server, port, resolver };
}

/** Sends one datagram and returns the answer. */
function exchange(port: number, bytes: Uint8Array): Promise<Uint8Array> {
  const socket = createSocket('udp4');
  undo.push(() => socket.close());
  return new Promise((resolve) => {
    socket.once('message', resolve);
    socket.send(bytes, port, HOST);
  });
}
const codeOf = (bytes: Uint8Array): number => (bytes[3] ?? 0) & 15;

describe('DnsServer', () => {
  it('answers an allowed name after pinning its addresses', async () => {
    const opened: string[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    const { resolver, pins } = await world((query) => [records(query, '192.0.2.1', '10.0.0.1')], {
      onPinned: async (_names, told) => {
        opened.push(...told.map(({ address }) => address));
        await promise;
      },
    });
    let isAnswered = false;
    const answer = resolver.resolve4('A.example').finally(() => {
      isAnswered = true;
    });
    await eventually(() => expect(opened).toEqual(['192.0.2.1']));
    expect(isAnswered).toBe(false);
    resolve();
    expect(await answer).toEqual(['192.0.2.1']);
    expect(pins.isPinned('a.example', '192.0.2.1')).toBe(true);
    expect(pins.isPinned('a.example', '10.0.0.1')).toBe(false);
  });
  it('answers SERVFAIL if the packet filter can’t be opened', async () => {
    const { resolver } = await world((query) => [records(query, '192.0.2.1')], {
      onPinned: () => Promise.reject(new Error('nft')),
    });
    await expect(resolver.resolve4('a.example')).rejects.toMatchObject({ code: 'ESERVFAIL' });
  });
  it('sends no query for a refused name, over UDP or TCP', async () => {
    const { resolver, asked, port, names } = await world((query) => [records(query, '192.0.2.1')]);
    for (const name of ['c2hlbGw.attacker.example', 'w.example', 'metadata.google.internal'])
      await expect(resolver.resolve4(name)).rejects.toMatchObject({ code: 'ENOTFOUND' });
    await expect(resolver.resolveTxt('x.attacker.example')).rejects.toMatchObject({ code: 'ENOTFOUND' });
    const replies = await tcpExchange(port, [encodeQuery(5, 'x.attacker.example', 1)]);
    expect(replies.map(codeOf)).toEqual([3]);
    expect(asked).toEqual([]);
    expect(names.counts().get('name_refused')).toBe(5);
    expect(await resolver.resolve4('a.example')).toEqual(['192.0.2.1']);
    expect(asked).toEqual(['a.example']);
  });
  it('returns no private address: a name that changes from public to private does not resolve', async () => {
    const turns = ['192.0.2.1', '10.0.0.1', '169.254.169.254'];
    const { resolver, pins } = await world((query) => [records(query, turns.shift() ?? '')]);
    expect(await resolver.resolve4('a.example')).toEqual(['192.0.2.1']);
    for (const _ of [1, 2]) await expect(resolver.resolve4('a.example')).rejects.toMatchObject({ code: 'ENOTFOUND' });
    expect(pins.addressesOf('a.example')).toEqual(['192.0.2.1']);
  });
  it('returns no ECH keys, and nothing about zones', async () => {
    const { port, asked } = await world((query) => [records(query, '192.0.2.1')]);
    for (const [type, code] of [
      [65, 0],
      [64, 0],
      [28, 0],
      [16, 0],
      [255, 4],
      [252, 4],
    ] as const) {
      const answer = parseAnswer(await exchange(port, encodeQuery(1, 'a.example', type)));
      expect(answer, `type ${type}`).toMatchObject({ ok: true, value: { code, records: [] } });
    }
    expect(asked).toEqual([]);
  });
  it('falls back to TCP on both sides for a long answer', async () => {
    const many = Array.from({ length: 100 }, (_, i) => `192.0.2.${i}`);
    const { resolver, server } = await world((query, transport) => [
      transport === 'tcp' ? records(query, ...many) : encodeReply(query, { code: 0, records: [] }, 0),
    ]);
    const answer = await resolver.resolve4('a.example');
    expect(answer).toHaveLength(32);
    expect(new Set(answer).size).toBe(32);
    expect(server.stats().udpQueries).toBe(1);
  });
  it('truncates for a client without EDNS, and answers fully over TCP', async () => {
    const many = Array.from({ length: 32 }, (_, i) => `192.0.2.${i}`);
    const { port } = await world((query) => [records(query, ...many)]);
    const plain = encodeQuery(6, 'a.example', 1).slice(0, -11);
    plain[11] = 0;
    const short = await exchange(port, plain);
    expect(parseAnswer(short)).toMatchObject({ ok: true, value: { isTruncated: true } });
    const [whole] = await tcpExchange(port, [plain]);
    const read = parseAnswer(whole ?? new Uint8Array());
    expect(read.ok && read.value.records.length).toBe(32);
  });
  it('ignores forged answers: wrong id, wrong question, wrong case of letters', async () => {
    const forged = '198.51.100.66';
    const { resolver } = await world((query, transport) => {
      if (transport === 'tcp') return [records(query, '192.0.2.1')];
      const wrongId = { ...query, id: (query.id + 1) & 0xffff };
      const other = parseQuery(encodeQuery(query.id, 'b.example', 1));
      if (!other.ok) throw new Error(other.reason);
      return [
        Buffer.from('junk'),
        records(wrongId, forged),
        records(other.value, forged),
        records(lowered(query), forged),
      ];
    });
    // A long name: that all letters are in lower case by chance is practically impossible.
    const name = 'a-name-with-so-many-letters-that-it-is-never-spelled-all-small.w.example';
    expect(await resolver.resolve4(name)).toEqual(['192.0.2.1']);
  });
  it('asks the next upstream if one is silent, and fails if all are', async () => {
    const good = await upstream((query) => [records(query, '192.0.2.1')]);
    const limits = { upstreamTimeoutMs: 50, upstreamRounds: 1 };
    const silent = await upstream(() => []);
    const both = await world(() => [], { limits, upstreams: [silent.at, good.at] });
    expect(await both.resolver.resolve4('a.example')).toEqual(['192.0.2.1']);
    const none = await world(() => [], { limits });
    await expect(none.resolver.resolve4('a.example')).rejects.toMatchObject({ code: 'ESERVFAIL' });
    expect(none.names.inFlight).toBe(0);
  });
  it('asks the next upstream if one is unreachable, and fails if all are', async () => {
    // Without SO_BROADCAST, a connect to the broadcast address is refused at once, as without a route.
    const unreachable = { address: '255.255.255.255', port: 53 };
    const good = await upstream((query) => [records(query, '192.0.2.1')]);
    const both = await world(() => [], { upstreams: [unreachable, good.at] });
    expect(await both.resolver.resolve4('a.example')).toEqual(['192.0.2.1']);
    const none = await world(() => [], { upstreams: [unreachable] });
    await expect(none.resolver.resolve4('a.example')).rejects.toMatchObject({ code: 'ESERVFAIL' });
  });
  it('does not answer addresses of no sandbox', async () => {
    const { port, server } = await world((query) => [records(query, '192.0.2.1')], { findSandbox: () => undefined });
    const socket = createSocket('udp4');
    undo.push(() => socket.close());
    let heard = 0;
    socket.on('message', () => {
      heard += 1;
    });
    socket.send(encodeQuery(1, 'a.example', 1), port, HOST);
    await eventually(() => expect(server.stats().strangers).toBe(1));
    expect(await tcpExchange(port, [encodeQuery(1, 'a.example', 1)])).toEqual([]);
    expect(heard).toBe(0);
  });
  it('answers malformed messages with a code, or not at all', async () => {
    const { port, server } = await world(() => []);
    const bad = encodeQuery(1, 'a.example', 1);
    bad[5] = 3;
    expect(codeOf(await exchange(port, bad))).toBe(1);
    const status = encodeQuery(1, 'a.example', 1);
    status[2] = 0x10;
    expect(codeOf(await exchange(port, status))).toBe(4);
    expect(await tcpExchange(port, [Buffer.from('short')])).toEqual([]);
    expect(await tcpExchange(port, [new Uint8Array(2000)])).toEqual([]);
    expect(server.stats().malformed).toBe(4);
  });
  it('serves pipelined messages in order, on a limited number of connections', async () => {
    const { port, server } = await world((query) => [records(query, '192.0.2.1')], {
      limits: { tcpConnectionsPerSandboxMax: 2 },
    });
    const queries = ['a.example', 'x.example', 'b.example'].map((name, id) => encodeQuery(id, name, 1));
    const replies = await tcpExchange(port, queries);
    expect(replies.map((bytes) => [bytes[1], codeOf(bytes)])).toEqual([
      [0, 0],
      [1, 3],
      [2, 0],
    ]);
    const open = [1, 2].map(() => connect(port, HOST));
    for (const socket of open) undo.push(() => socket.destroy());
    await eventually(() => expect(server.stats().tcpConnections).toBe(2));
    expect(await tcpExchange(port, [encodeQuery(1, 'x.example', 1)])).toEqual([]);
    expect(server.stats().dropped).toBe(1);
    for (const socket of open) socket.destroy();
    await eventually(() => expect(server.stats().tcpConnections).toBe(0));
  });
  it('closes a connection without a complete message', async () => {
    const clock = new FakeClock();
    const { port, server } = await world(() => [], { clock });
    const socket = connect(port, HOST);
    undo.push(() => socket.destroy());
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.write(Buffer.of(0));
    await eventually(() => expect(server.stats().tcpConnections).toBe(1));
    clock.advance(9_999);
    expect(server.stats().tcpConnections).toBe(1);
    clock.advance(1);
    await closed;
    await eventually(() => expect(server.stats().tcpConnections).toBe(0));
  });
  it('listen: an error says why it failed', async () => {
    const { port } = await world(() => []);
    const second = new DnsServer({ address: HOST, port, upstreams: [], findSandbox: () => undefined });
    await expect(second.listen()).rejects.toMatchObject({ code: 'address_in_use' });
    const nowhere = new DnsServer({ address: '192.0.2.1', port: 0, upstreams: [], findSandbox: () => undefined });
    await expect(nowhere.listen()).rejects.toBeInstanceOf(ListenError);
  });
});

/** Sends all messages at once. @returns received bytes, up to as many replies or the end */
function tcpExchange(port: number, messages: readonly Uint8Array[]): Promise<Uint8Array[]> {
  const socket = connect(port, HOST);
  undo.push(() => socket.destroy());
  return new Promise((resolve) => {
    let received = Buffer.alloc(0);
    const replies: Uint8Array[] = [];
    const finish = (): void => {
      socket.destroy();
      resolve(replies);
    };
    socket.on('error', finish);
    socket.on('close', finish);
    socket.on('data', (bytes) => {
      received = Buffer.concat([received, bytes]);
      while (received.length >= 2 && received.length >= 2 + received.readUInt16BE()) {
        const end = 2 + received.readUInt16BE();
        replies.push(Uint8Array.from(received.subarray(2, end)));
        received = received.subarray(end);
      }
      if (replies.length === messages.length) finish();
    });
    for (const message of messages) {
      const length = Buffer.alloc(2);
      length.writeUInt16BE(message.length);
      socket.write(Buffer.concat([length, message]));
    }
  });
}
