/**
 * The far side of the egress suite: a server that a sandbox may reach only under allowed names. It records all
 * arrivals and returns to a runner those of its run (I/O).
 *
 *     80, 8080   HTTP: `canary`; TRACE echoes; /to-… redirects; ARRIVALS_PATH/RUN returns the arrivals of a run
 *     443        the same in TLS, with a self-signed certificate
 *     53, 853    DNS by UDP, TCP and TLS: authoritative for its zone, see `canary-zone.ts`
 *     443, 9999  UDP: recorded, not answered
 */
import { createSocket } from 'node:dgram';
import { createServer, type Server, type Socket } from 'node:net';
import { createSecureContext, createServer as createTlsServer } from 'node:tls';
import { ProofError } from '../../prove/errors.ts';
import { METADATA_ADDRESSES } from '../../prove/map.ts';
import { ignore } from '../../src/base/ignore.ts';
import { parseQuery } from '../../src/egress/net/dns/message.ts';
import type { RequestHead } from '../../src/egress/net/http/head.ts';
import { HttpRequestReader } from '../../src/egress/net/http/requests.ts';
import { ARRIVAL_CHARACTERS_MAX, Arrivals, type CanaryArrival, RUN_ID } from './arrivals.ts';
import { CANARY_LABELS, runName, zoneReply } from './canary-zone.ts';
import { makeCertificate } from './certificate.ts';

export const ARRIVALS_PATH = '/neurovisor-canary/';
/** Part of every answer. */
export const CANARY_CONTENT = 'here is the canary';
const DNS_OVER_TLS_PORT = 853;
export const CANARY_PORTS = { http: [80, 8080], tls: [443, 853], dns: 53, udp: [443, 9999] } as const;

const CONNECTIONS_MAX = 256;
const IDLE_MS = 15_000;
/** RFC 8446 section 5.1: the first byte of a record with a hello in it. */
const TLS_HANDSHAKE = 22;
/** Maximum number of names whose queries are counted. */
const NAMES_MAX = 10_000;

interface CanaryOptions {
  /** IPv4 address to listen at. */
  readonly listen: string;
  /** Address of the zone's names; differs from `listen` for 0.0.0.0 and behind NAT. */
  readonly address: string;
  readonly zone: string;
}

/** @throws ProofError `canary_failed` if a port is not available */
export async function startCanary(options: CanaryOptions): Promise<AsyncDisposable> {
  const { listen, zone } = options;
  const stack = new AsyncDisposableStack();
  const arrivals = new Arrivals();
  const asked = new Map<string, number>();
  const sockets = new Set<Socket>();
  stack.defer(() => {
    for (const socket of sockets) socket.destroy();
  });
  const record = (protocol: CanaryArrival['protocol'], port: number, text: string): void =>
    arrivals.add({ protocol, port, text });
  const answer = (bytes: Buffer, port: number): Uint8Array | undefined => {
    const parsed = parseQuery(bytes);
    if (!parsed.ok) {
      record('dns', port, bytes.toString('latin1'));
      return undefined;
    }
    const { name, type } = parsed.value.question;
    record('dns', port, name);
    const key = `${name} ${type}`;
    const times = asked.get(key) ?? 0;
    if (asked.size >= NAMES_MAX) asked.clear();
    asked.set(key, times + 1);
    return zoneReply(parsed.value, zone, options.address, times);
  };
  const serve = (socket: Socket, port: number): void => {
    socket.on('error', (error) => ignore(error, 'the client broke the connection'));
    if (port !== DNS_OVER_TLS_PORT) {
      new Conversation(socket, zone, arrivals, (text) => record('http', port, text)).start();
      return;
    }
    socket.once('data', (bytes: Buffer) => record('tls', port, bytes.toString('latin1')));
    converse(socket, (bytes) => answer(bytes, port));
  };
  try {
    const { key, cert } = await makeCertificate([zone, `*.${zone}`]);
    const tls = (port: number): Server => {
      const server = createTlsServer(
        {
          key,
          cert,
          // Called for every hello with a server name, even if the handshake then fails.
          SNICallback: (name, done) => {
            record('tls', port, name);
            done(null, createSecureContext({ key, cert }));
          },
        },
        (socket) => serve(socket, port),
      );
      server.on('tlsClientError', (error) => ignore(error, 'the client broke off the handshake'));
      return createServer((socket) => {
        socket.once('data', (bytes: Buffer) => {
          if (bytes[0] === TLS_HANDSHAKE) {
            socket.pause();
            socket.unshift(bytes);
            server.emit('connection', socket);
            return;
          }
          record('tcp', port, bytes.toString('latin1'));
          socket.end(`${CANARY_CONTENT}, which speaks TLS at this port\n`);
        });
      });
    };
    const servers = [
      ...CANARY_PORTS.http.map((port) => ({ port, server: createServer((socket) => serve(socket, port)) })),
      ...CANARY_PORTS.tls.map((port) => ({ port, server: tls(port) })),
      { port: CANARY_PORTS.dns, server: createServer((socket) => converse(socket, (bytes) => answer(bytes, 53))) },
    ];
    for (const { server, port } of servers) {
      stack.defer(() => void server.close());
      await listenTcp(server, port, listen, sockets);
    }
    await listenUdp(stack, CANARY_PORTS.dns, listen, (bytes) => answer(bytes, 53));
    for (const port of CANARY_PORTS.udp)
      await listenUdp(stack, port, listen, (bytes) => {
        record('udp', port, bytes.toString('latin1'));
        return undefined;
      });
    return stack;
  } catch (cause) {
    await stack.disposeAsync();
    const remedy = `Give --listen an address of this machine whose ports ${[80, 443, 53, 853, 8080, 9999].join(', ')} are free, and run it as root.`;
    throw new ProofError('canary_failed', `could not listen at ${listen}`, { cause, remedy });
  }
}

/** HTTP on one connection: records each request as soon as its head is complete, and answers it. */
class Conversation {
  readonly #socket: Socket;
  readonly #zone: string;
  readonly #arrivals: Arrivals;
  readonly #record: (text: string) => void;
  readonly #reader = new HttpRequestReader();
  /** Recent bytes, for input that this parser refuses and another might accept. */
  #raw = '';

  constructor(socket: Socket, zone: string, arrivals: Arrivals, record: (text: string) => void) {
    this.#socket = socket;
    this.#zone = zone;
    this.#arrivals = arrivals;
    this.#record = record;
  }

  start(): void {
    this.#socket.on('data', (bytes: Buffer) => this.#onData(bytes));
  }

  #onData(bytes: Buffer): void {
    this.#raw = (this.#raw + bytes.toString('latin1')).slice(-ARRIVAL_CHARACTERS_MAX);
    for (const piece of this.#reader.push(bytes)) {
      if (piece.kind === 'head') this.#answer(piece.head);
      if (piece.kind === 'refused') this.#refuse(piece.reason);
    }
  }

  #refuse(reason: string): void {
    this.#record(this.#raw);
    this.#socket.end(response(400, `${CANARY_CONTENT}, which does not understand: ${reason}\n`));
  }

  #answer({ method, path, host, forward }: RequestHead): void {
    const run = path.startsWith(ARRIVALS_PATH) ? path.slice(ARRIVALS_PATH.length) : '';
    if (RUN_ID.test(run)) {
      const body = JSON.stringify(this.#arrivals.of(run));
      this.#socket.end(response(200, body, ['Content-Type: application/json']));
      return;
    }
    this.#record(forward);
    const redirect = /^\/to-(other|metadata)\/([0-9a-f]{20})(x\d{1,6})$/.exec(path);
    if (redirect !== null) {
      const [, where, id = '', rest] = redirect;
      const other = runName(CANARY_LABELS.other, id, this.#zone);
      const to = where === 'other' ? other : METADATA_ADDRESSES[0];
      this.#socket.write(response(302, '', [`Location: http://${to}/${id}${rest}`]));
    } else if (method === 'TRACE') this.#socket.write(response(200, forward));
    else {
      const name = host.kind === 'name' ? host.name : host.address;
      this.#socket.write(response(200, method === 'HEAD' ? '' : `${CANARY_CONTENT}: ${name}\n`));
    }
    if (/^connection: close\r$/im.test(forward)) this.#socket.end();
  }
}

function response(status: number, body: string, fields: readonly string[] = []): string {
  const length = `Content-Length: ${Buffer.byteLength(body, 'latin1')}`;
  return `${[`HTTP/1.1 ${status} Canary`, length, ...fields].join('\r\n')}\r\n\r\n${body}`;
}

/** RFC 7766: a length-prefixed message; one query per connection. */
function converse(socket: Socket, answer: (bytes: Buffer) => Uint8Array | undefined): void {
  let received = Buffer.alloc(0);
  socket.on('data', (bytes: Buffer) => {
    received = Buffer.concat([received, bytes]);
    if (received.length < 2) return;
    const bytesMax = received.readUInt16BE();
    if (received.length < 2 + bytesMax && received.length < ARRIVAL_CHARACTERS_MAX) return;
    socket.removeAllListeners('data');
    const reply = answer(received.subarray(2, 2 + bytesMax)) ?? Buffer.alloc(0);
    const length = Buffer.alloc(2);
    length.writeUInt16BE(reply.length);
    socket.end(Buffer.concat([length, reply]));
  });
}

async function listenTcp(server: Server, port: number, address: string, sockets: Set<Socket>): Promise<void> {
  server.maxConnections = CONNECTIONS_MAX;
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    socket.on('error', (error) => ignore(error, 'the client broke the connection'));
    socket.setTimeout(IDLE_MS, () => socket.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, address, resolve);
  });
}

async function listenUdp(
  stack: AsyncDisposableStack,
  port: number,
  address: string,
  answer: (bytes: Buffer) => Uint8Array | undefined,
): Promise<void> {
  const socket = createSocket('udp4');
  stack.defer(() => void socket.close());
  socket.on('message', (bytes, from) => {
    const reply = answer(bytes);
    if (reply !== undefined) socket.send(reply, from.port, from.address);
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(port, address, resolve);
  });
  socket.on('error', (error) => ignore(error, 'the answer could not be sent'));
}
