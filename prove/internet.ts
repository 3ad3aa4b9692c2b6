/**
 * The role of the internet, at the other end of the host's uplink: a resolver, web servers, metadata services and other
 * servers that a guest might call. It records all arrivals.
 */
import { createSocket } from 'node:dgram';
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type SecureContext } from 'node:tls';
import { systemClock } from '../src/base/clock.ts';
import { ignore } from '../src/base/ignore.ts';
import { DNS_CODE, DNS_TYPE, type DnsRecord, encodeReply, parseQuery } from '../src/egress/net/dns/message.ts';
import { CertificateAuthority } from '../src/egress/net/secret/authority.ts';
import { act } from './actor.ts';
import { plugCard } from './card.ts';
import {
  type Arrival,
  HOST_UPLINK,
  INTERNET_ADDRESSES,
  isMetadataAddress,
  OTHER,
  PLAIN_POOL,
  POOL,
  PSK,
  RESOLVERS,
  SECRET,
  UDP_ADDRESSES,
  UPLINK_PREFIX,
  UPSTREAM,
  VAULT,
  ZONE,
} from './map.ts';

const TTL_SECONDS = 60;
const arrivals: Arrival[] = [];
const authority = new CertificateAuthority(systemClock);
const reflector = createHttpServer(reflect);
/** Queries per name: some answers change with the count. */
const asked = new Map<string, number>();

const links = plugCard({ address: UPSTREAM, prefixLength: UPLINK_PREFIX, also: INTERNET_ADDRESSES });
const linkIndex = links.find('eth0')?.index ?? 0;
// Also answers a guest that leaves with its own address.
for (const destination of [POOL, PLAIN_POOL]) links.addRoute({ destination, gateway: HOST_UPLINK, linkIndex });

await Promise.all([
  listen(httpServer(), 80),
  listen(tlsServer(), 443),
  ...[53, 853, 8080].map((port) => listen(createServer(port === 53 ? converse : echo), port)),
  ...RESOLVERS.map((address) => listenUdp(address, 53, answerName)),
  ...UDP_ADDRESSES.flatMap((address) => [443, 9999].map((port) => listenUdp(address, port, (bytes) => bytes))),
]);

act({
  ready: () => true,
  arrivals: () => arrivals,
  root: () => authority.certificate(),
  send: ({ host, port, text }: { host: string; port: number; text: string }) =>
    new Promise<void>((resolve) => {
      const socket = createSocket('udp4');
      socket.send(text, port, host, () => {
        socket.close();
        resolve();
      });
    }),
});

function note(protocol: Arrival['protocol'], to: string | undefined, port: number, text = ''): void {
  arrivals.push({ protocol, to: (to ?? '').replace(/^::ffff:/, ''), port, text });
}

async function listen(server: Server, port: number): Promise<void> {
  server.on('connection', (socket: Socket) => {
    note('tcp', socket.localAddress, port);
    socket.on('error', (error) => ignore(error, 'the caller broke its connection'));
  });
  await new Promise<void>((resolve) => server.listen(port, '0.0.0.0', resolve));
}

async function listenUdp(
  address: string,
  port: number,
  answer: (bytes: Buffer, address: string) => Uint8Array | undefined,
): Promise<void> {
  const socket = createSocket('udp4');
  socket.on('message', (bytes, from) => {
    if (port !== 53) note('udp', address, port, bytes.toString('latin1'));
    const reply = answer(bytes, address);
    if (reply !== undefined) socket.send(reply, from.port, from.address);
  });
  await new Promise<void>((resolve) => socket.bind(port, address, resolve));
}

function httpServer(): Server {
  const server = createHttpServer(answerHttp);
  // Node.js emits CONNECT separately from requests.
  server.on('connect', ({ url = '', headers }: IncomingMessage, socket: Socket) => {
    note('http', socket.localAddress, 80, `CONNECT ${headers.host} ${url}`);
    socket.destroy();
  });
  return server;
}

function answerHttp(request: IncomingMessage, response: ServerResponse): void {
  const { method, url = '' } = request;
  const to = request.socket.localAddress ?? '';
  note('http', to, 80, `${method} ${request.headers.host} ${url}`);
  if (url.startsWith('/redirect')) {
    response.writeHead(302, { location: 'http://169.254.169.254/latest/meta-data/' }).end();
    return;
  }
  response.end(isMetadataAddress(to) ? `${SECRET}\n` : `page of ${request.headers.host}\n`);
}

/** Echoes the request; the URL selects the form of the answer. */
function reflect(request: IncomingMessage, response: ServerResponse): void {
  const { method, url = '', headers, socket } = request;
  const heard = `${method} ${headers.host} ${url} ${JSON.stringify(headers)}`;
  note('http', socket.localAddress, 443, heard);
  const key = String(headers['x-api-key']);
  if (url.startsWith('/redirect')) {
    response.writeHead(302, { location: `https://${OTHER.name}/?${key}` }).end();
  } else if (url.startsWith('/chunked')) {
    for (const character of `page of ${heard}`) response.write(character);
    response.end();
  } else if (url.startsWith('/say/')) {
    for (const text of ['hello ', url.slice('/say/'.length), ' bye']) response.write(text);
    response.end();
  } else response.end(`page of ${heard}`);
}

/** TLS with a pre-shared key; only the vault has a certificate. */
function tlsServer(): Server {
  const version = 'TLSv1.2' as const;
  const options = {
    ciphers: 'PSK:ECDHE-ECDSA-AES128-GCM-SHA256',
    SNICallback: (name: string, use: (error: Error | null, context?: SecureContext) => void) => {
      if (name !== VAULT.name) use(null);
      else authority.contextFor(name).then((context) => use(null, context), use);
    },
    minVersion: version,
    maxVersion: version,
    pskCallback: () => Buffer.from(PSK),
  };
  const server = createTlsServer(options, (socket) => {
    const name = String(Reflect.get(socket, 'servername'));
    note('tls', socket.localAddress, 443, name);
    socket.on('error', (error) => ignore(error, 'the caller broke its connection'));
    if (name === VAULT.name) {
      reflector.emit('connection', socket);
      return;
    }
    socket.write(`page of ${name}\n`);
    socket.pipe(socket);
  });
  server.on('tlsClientError', (error) => ignore(error, 'the caller does not speak TLS'));
  return server;
}

function echo(socket: Socket): void {
  socket.write('hello\n');
  socket.pipe(socket);
}

/** RFC 7766: a length-prefixed message; one question per connection. */
function converse(socket: Socket): void {
  let received = Buffer.alloc(0);
  socket.on('data', (bytes: Buffer) => {
    received = Buffer.concat([received, bytes]);
    if (received.length < 2 || received.length < 2 + received.readUInt16BE()) return;
    const reply = answerName(received.subarray(2), socket.localAddress ?? '');
    const length = Buffer.alloc(2);
    length.writeUInt16BE(reply?.length ?? 0);
    socket.end(Buffer.concat([length, reply ?? Buffer.alloc(0)]));
  });
}

function answerName(bytes: Buffer, to: string): Uint8Array | undefined {
  const parsed = parseQuery(bytes);
  if (!parsed.ok) {
    note('dns', to, 53, `(${parsed.reason})`);
    return undefined;
  }
  const { name, type } = parsed.value.question;
  note('dns', to, 53, name);
  const times = asked.get(name) ?? 0;
  asked.set(name, times + 1);
  const records = type === DNS_TYPE.A ? recordsOf(name, times) : [];
  return encodeReply(parsed.value, { code: DNS_CODE.ok, records }, 1232);
}

/** Every name resolves, so that a leaked name shows. */
function recordsOf(name: string, times: number): DnsRecord[] {
  const lists = ZONE[name] ?? ZONE['*'] ?? [];
  const list = lists[Math.min(times, lists.length - 1)] ?? [];
  return list.map((target): DnsRecord => {
    const isAddress = /^[\d.]+$/.test(target);
    return isAddress
      ? { type: 'A', name, ttlSeconds: TTL_SECONDS, address: target }
      : { type: 'CNAME', name, ttlSeconds: TTL_SECONDS, target };
  });
}
