/**
 * The resolver of the sandboxes (io): UDP and TCP on one address and port. The source address identifies the sandbox,
 * since the packet filter drops spoofed ones. `answers.ts` decides what is allowed; `upstream.ts` asks other resolvers.
 */
import { randomInt } from 'node:crypto';
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { createServer, isIPv6, type Server, type Socket } from 'node:net';
import { type Clock, systemClock } from '../../../base/clock.ts';
import { ignore } from '../../../base/ignore.ts';
import { type Log, silentLog } from '../../../base/log.ts';
import { plainAddress } from '../addresses/host-name.ts';
import { listenError } from '../listen-error.ts';
import type { Pin } from '../policy/pins.ts';
import type { SandboxNames, Step } from './answers.ts';
import {
  DNS_CODE,
  type DnsQuery,
  type DnsReply,
  encodeFailure,
  encodeReply,
  parseQuery,
  QUERY_BYTES_MAX,
  udpReplyBytesMax,
} from './message.ts';
import { TcpMessages, tcpMessage } from './tcp-messages.ts';
import { askUpstreams, type DnsUpstream } from './upstream.ts';

interface DnsServerLimits {
  readonly tcpConnectionsMax: number;
  readonly tcpConnectionsPerSandboxMax: number;
  /** Applies to a silent client and to a slow message. */
  readonly tcpIdleTimeoutMs: number;
  readonly upstreamTimeoutMs: number;
  readonly upstreamRounds: number;
}

const DNS_SERVER_LIMITS: DnsServerLimits = {
  tcpConnectionsMax: 256,
  tcpConnectionsPerSandboxMax: 8,
  tcpIdleTimeoutMs: 10_000,
  upstreamTimeoutMs: 2_000,
  upstreamRounds: 2,
};
const TCP_REPLY_BYTES_MAX = 0xffff;

export interface DnsServerOptions {
  readonly address: string;
  /** 0 selects a port that is free for both transports. */
  readonly port: number;
  readonly upstreams: readonly DnsUpstream[];
  /** @param remoteAddress as `plainAddress` writes it */
  readonly findSandbox: (remoteAddress: string) => SandboxNames | undefined;
  /** Opens the packet filter for the pins before the guest gets its answer; if it rejects, the answer is SERVFAIL. */
  readonly onPinned?: (names: SandboxNames, pins: readonly Pin[]) => Promise<void>;
  readonly clock?: Clock;
  readonly random?: (below: number) => number;
  readonly limits?: Partial<DnsServerLimits>;
  readonly log?: Log;
}

interface DnsServerStats {
  readonly udpQueries: number;
  readonly tcpQueries: number;
  readonly tcpConnections: number;
  /** Packets and connections from addresses without a sandbox. */
  readonly strangers: number;
  readonly malformed: number;
  readonly dropped: number;
}

const PORT_ATTEMPTS = 8;

export class DnsServer {
  readonly #options: DnsServerOptions;
  readonly #limits: DnsServerLimits;
  readonly #clock: Clock;
  readonly #random: (below: number) => number;
  readonly #log: Log;
  readonly #closing = new AbortController();
  readonly #sockets = new Map<Socket, SandboxNames>();
  readonly #counts = { udpQueries: 0, tcpQueries: 0, strangers: 0, malformed: 0, dropped: 0 };
  #udp: UdpSocket | undefined;
  #tcp: Server | undefined;

  constructor(options: DnsServerOptions) {
    this.#options = options;
    this.#limits = { ...DNS_SERVER_LIMITS, ...options.limits };
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? ((below) => randomInt(below));
    this.#log = options.log ?? silentLog;
  }

  /** @returns the port. @throws ListenError */
  async listen(): Promise<number> {
    const { address, port } = this.#options;
    for (let left = port === 0 ? PORT_ATTEMPTS : 1; ; left -= 1) {
      let udp: UdpSocket | undefined;
      try {
        udp = await bindUdp(address, port);
        this.#tcp = await listenTcp(address, udp.address().port, (socket) => this.#onSocket(socket));
        this.#udp = udp;
        break;
      } catch (error) {
        udp?.close();
        if (left <= 1) throw listenError('DNS', address, port, error);
      }
    }
    this.#udp.on('message', (bytes, from) => this.#onDatagram(bytes, from));
    this.#udp.on('error', (error) => this.#log.warn('dns socket', { error: error.message }));
    this.#tcp.on('error', (error) => this.#log.warn('dns listener', { error: error.message }));
    return this.#udp.address().port;
  }

  stats(): DnsServerStats {
    return { ...this.#counts, tcpConnections: this.#sockets.size };
  }

  async close(): Promise<void> {
    this.#closing.abort();
    const { promise, resolve } = Promise.withResolvers<void>();
    if (this.#tcp === undefined) resolve();
    else this.#tcp.close(() => resolve());
    for (const socket of this.#sockets.keys()) socket.destroy();
    this.#udp?.close();
    await promise;
  }

  #onDatagram(bytes: Uint8Array, from: RemoteInfo): void {
    const names = this.#options.findSandbox(plainAddress(from.address));
    if (names === undefined) {
      this.#counts.strangers += 1;
      return;
    }
    this.#counts.udpQueries += 1;
    void this.#answer(names, bytes, udpReplyBytesMax).then((reply) => {
      if (reply === undefined || this.#closing.signal.aborted) return;
      this.#udp?.send(reply, from.port, from.address, (error) => {
        if (error !== null) ignore(error, 'could not send a DNS answer');
      });
    });
  }

  #onSocket(socket: Socket): void {
    socket.on('error', (error) => ignore(error, 'a DNS client broke its connection'));
    const names = this.#options.findSandbox(plainAddress(socket.remoteAddress ?? ''));
    const own = [...this.#sockets.values()].filter((each) => each === names).length;
    const { tcpConnectionsMax, tcpConnectionsPerSandboxMax } = this.#limits;
    const isFull = this.#sockets.size >= tcpConnectionsMax || own >= tcpConnectionsPerSandboxMax;
    if (names === undefined || isFull) {
      this.#counts[names === undefined ? 'strangers' : 'dropped'] += 1;
      socket.destroy();
      return;
    }
    this.#sockets.set(socket, names);
    socket.once('close', () => this.#sockets.delete(socket));
    void this.#converse(socket, names);
  }

  /** Reads length-prefixed messages (RFC 7766), one at a time, so that a client that does not read waits. */
  async #converse(socket: Socket, names: SandboxNames): Promise<void> {
    const messages = new TcpMessages(QUERY_BYTES_MAX);
    const arm = () => this.#clock.after(this.#limits.tcpIdleTimeoutMs, () => socket.destroy());
    let disarm = arm();
    try {
      for await (const chunk of socket as AsyncIterable<Buffer>) {
        messages.push(chunk);
        for (let message = messages.next(); message !== undefined; message = messages.next()) {
          if (message === 'too_long') {
            this.#counts.malformed += 1;
            return;
          }
          disarm();
          this.#counts.tcpQueries += 1;
          const reply = await this.#answer(names, message, () => TCP_REPLY_BYTES_MAX);
          disarm = arm();
          if (reply === undefined) return;
          await writeMessage(socket, reply);
        }
      }
    } catch (error) {
      ignore(error, 'a DNS client broke its connection');
    } finally {
      disarm();
      socket.destroySoon();
      this.#clock.after(this.#limits.tcpIdleTimeoutMs, () => socket.destroy());
    }
  }

  /** The reply; undefined for none. Never rejects. */
  async #answer(
    names: SandboxNames,
    bytes: Uint8Array,
    bytesMax: (query: DnsQuery) => number,
  ): Promise<Uint8Array | undefined> {
    const parsed = parseQuery(bytes);
    if (!parsed.ok) {
      this.#counts.malformed += 1;
      if (parsed.id === undefined) return undefined;
      const isUnknown = parsed.reason === 'opcode';
      return encodeFailure(parsed.id, isUnknown ? DNS_CODE.notImplemented : DNS_CODE.formatError);
    }
    const query = parsed.value;
    const reply = await this.#resolve(names, query);
    return encodeReply(query, reply, bytesMax(query));
  }

  async #resolve(names: SandboxNames, query: DnsQuery): Promise<DnsReply> {
    const begun = names.begin(query.question);
    if (begun.kind === 'reply') return begun.reply;
    const { resolution } = begun;
    const { upstreams } = this.#options;
    const { upstreamTimeoutMs: timeoutMs, upstreamRounds: rounds } = this.#limits;
    const settings = { upstreams, clock: this.#clock, random: this.#random, timeoutMs, rounds };
    let step: Step = { kind: 'ask', question: resolution.ask };
    while (step.kind === 'ask') {
      const answer = await askUpstreams(settings, step.question, this.#closing.signal);
      step = answer === undefined ? resolution.fail('no upstream answered') : resolution.take(answer);
    }
    if (step.pins.length === 0) return step.reply;
    try {
      await this.#options.onPinned?.(names, step.pins);
      return step.reply;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#log.error('open the packet filter for a DNS answer', { error: message });
      return { code: DNS_CODE.serverFailure };
    }
  }
}

function bindUdp(address: string, port: number): Promise<UdpSocket> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
    const onError = (error: Error): void => {
      socket.close();
      reject(error);
    };
    socket.once('error', onError);
    socket.bind(port, address, () => {
      socket.off('error', onError);
      resolve(socket);
    });
  });
}

function listenTcp(address: string, port: number, onSocket: (socket: Socket) => void): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer({ noDelay: true }, onSocket);
    server.once('error', reject);
    server.listen(port, address, () => {
      server.off('error', reject);
      resolve(server);
    });
  });
}

function writeMessage(socket: Socket, message: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.write(tcpMessage(message), (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}
