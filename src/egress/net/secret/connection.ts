/**
 * A guest's TLS connection to a host with secrets: terminated here, with a new one to the host (io).
 *
 *     starting ──certificate──► open ◄──► upstream, dialed at the first allowed request
 *         └───────────────────────┴─► closing ──► closed
 *
 * Reads each end only as fast as the other takes it. Buffers a head, and bytes that could be part of a secret.
 */
import type { Socket } from 'node:net';
import { connect as connectTls, TLSSocket } from 'node:tls';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { IdleTimer } from '../../../base/idle-timer.ts';
import { ignore } from '../../../base/ignore.ts';
import type { RequestHead } from '../http/head.ts';
import type { Endpoint, Judgement } from '../policy/judge.ts';
import { type ExchangeOutput, type ExchangeReason, SecretExchange } from './exchange.ts';
import type { EgressSecrets } from './secret.ts';

interface SecretTimeouts {
  readonly headMs: number;
  readonly connectMs: number;
  readonly idleMs: number;
  readonly lingerMs: number;
}

export type SecretEndReason = ExchangeReason | 'head_timeout' | 'idle_timeout';

export interface SecretUse {
  /**
   * `unfilled`: a placeholder was sent unchanged, since its secret does not belong to the host. `unplaced`: the request
   * was refused. `without_cookies`: sent with a secret, without the cookies.
   */
  readonly kind: 'filled' | 'unfilled' | 'unplaced' | 'without_cookies';
  readonly names: readonly string[];
  readonly host: string;
  readonly why?: string;
}

interface SecretConnectionContext {
  readonly clock: Clock;
  readonly timeouts: SecretTimeouts;
  readonly dial: (destination: Endpoint) => Socket;
  readonly judge: (head: RequestHead) => Judgement;
  readonly onRequest: (host: string) => void;
  readonly onRefused: (reason: SecretEndReason, why: string) => void;
  readonly onSecrets: (use: SecretUse) => void;
  /**
   * Called before bytes are passed on. If it returns false, they must not be, and the connection is being destroyed.
   */
  readonly onBytes: (direction: 'sent' | 'received', bytes: number) => boolean;
}

/** ALPN: secrets are put into heads, which must be readable. */
const PROTOCOLS = ['http/1.1'];
const WHY_CHARACTERS_MAX = 300;

export class SecretConnection {
  readonly #context: SecretConnectionContext;
  readonly #socket: Socket;
  readonly #host: string;
  readonly #destination: Endpoint;
  readonly #secrets: EgressSecrets;
  readonly #exchange: SecretExchange;
  #guest: TLSSocket | undefined;
  #upstream: TLSSocket | undefined;
  #isConnected = false;
  #isClosing = false;
  #queue: Uint8Array[] = [];
  readonly #idle: IdleTimer;
  #cancelHead: (() => void) | undefined;
  #cancelLinger: (() => void) | undefined;

  /** @param socket paused; reading it returns everything that the guest has sent @param host the judged SNI */
  constructor(
    context: SecretConnectionContext,
    socket: Socket,
    host: string,
    destination: Endpoint,
    secrets: EgressSecrets,
  ) {
    this.#context = context;
    this.#socket = socket;
    this.#host = host;
    this.#destination = destination;
    this.#secrets = secrets;
    this.#exchange = new SecretExchange({ host, secrets: secrets.secrets, judge: context.judge });
    socket.once('close', () => this.#onClosed());
    this.#armHead();
    this.#idle = new IdleTimer(context.clock, context.timeouts.idleMs, () => {
      if (!this.#isClosing) context.onRefused('idle_timeout', 'idle for too long');
      this.destroy();
    });
    void this.#start();
  }

  get lastHead(): RequestHead | undefined {
    return this.#exchange.lastHead;
  }

  destroy(): void {
    this.#socket.destroy();
  }

  async #start(): Promise<void> {
    try {
      const secureContext = await this.#secrets.authority.contextFor(this.#host);
      if (this.#socket.destroyed) return;
      const options = { isServer: true, secureContext, ALPNProtocols: PROTOCOLS };
      const guest = new TLSSocket(this.#socket, options);
      this.#guest = guest;
      guest.on('data', (bytes) => this.#onGuestData(bytes));
      guest.on('end', () => this.#onGuestEnd());
      guest.on('drain', () => this.#upstream?.resume());
      // For example a client with its own root list, which does not trust our certificate.
      guest.on('error', (error) => ignore(error, 'the guest broke its connection'));
      guest.once('close', () => this.destroy());
    } catch (error) {
      this.#context.onRefused('upstream_failed', describeError(error));
      this.destroy();
    }
  }

  #onGuestData(bytes: Buffer): void {
    if (this.#isClosing) return;
    if (!this.#count('sent', bytes.length)) return;
    this.#apply(this.#exchange.fromGuest(bytes));
    if (this.#exchange.isInHead) this.#armHead();
    else this.#disarmHead();
  }

  /** Requests so far are still answered. */
  #onGuestEnd(): void {
    if (this.#isConnected) this.#upstream?.end();
    else if (this.#upstream === undefined && !this.#isClosing) this.destroy();
  }

  #apply(outputs: readonly ExchangeOutput[]): void {
    const { onRequest, onRefused, onSecrets } = this.#context;
    const host = this.#host;
    for (const output of outputs) {
      if (output.kind === 'to_upstream') this.#toUpstream(output.bytes);
      else if (output.kind === 'to_guest') this.#toGuest(output.bytes);
      else if (output.kind === 'refused') onRefused(output.reason, output.why);
      else if (output.kind === 'close') this.#close();
      else if (output.kind === 'request') {
        onRequest(host);
        const names = output.filled;
        if (names.length > 0) onSecrets({ kind: 'filled', names, host });
      } else onSecrets({ ...output, host });
    }
    if (this.#isClosing) return;
    if (!this.#exchange.isOpen) this.#guest?.pause();
    else this.#resumeGuest();
  }

  #toGuest(bytes: Uint8Array): void {
    if (this.#guest?.write(bytes) === false) this.#upstream?.pause();
  }

  #toUpstream(bytes: Uint8Array): void {
    this.#upstream ??= this.#dial();
    if (this.#isConnected) this.#upstream.write(bytes);
    else this.#queue.push(bytes);
  }

  #resumeGuest(): void {
    if (this.#upstream === undefined) return;
    const isFull = !this.#isConnected || this.#upstream.writableNeedDrain;
    if (isFull || !this.#exchange.isOpen) this.#guest?.pause();
    else this.#guest?.resume();
  }

  #dial(): TLSSocket {
    const { clock, dial, timeouts } = this.#context;
    const socket = dial(this.#destination);
    socket.on('error', (error) => ignore(error, 'handled by TLS on this socket'));
    const upstream = connectTls({
      socket,
      servername: this.#host,
      secureContext: this.#secrets.roots(),
      ALPNProtocols: PROTOCOLS,
      rejectUnauthorized: true,
    });
    const cancel = clock.after(timeouts.connectMs, () => upstream.destroy(new Error('timeout')));
    upstream.once('secureConnect', () => {
      cancel();
      this.#onConnected(upstream);
    });
    upstream.on('data', (bytes: Buffer) => {
      if (this.#isClosing) return;
      if (!this.#count('received', bytes.length)) return;
      this.#apply(this.#exchange.fromUpstream(bytes));
    });
    upstream.on('drain', () => this.#resumeGuest());
    upstream.once('end', () => this.#apply(this.#exchange.upstreamEnded()));
    upstream.once('error', (error) => this.#onUpstreamError(error));
    upstream.once('close', () => {
      cancel();
      socket.destroy();
      // Neither ended nor failed: destroyed by us.
      if (!this.#isClosing) this.destroy();
    });
    return upstream;
  }

  #onConnected(upstream: TLSSocket): void {
    this.#idle.touch();
    this.#isConnected = true;
    const queue = this.#queue;
    this.#queue = [];
    for (const bytes of queue) upstream.write(bytes);
    if (this.#guest?.readableEnded === true) upstream.end();
    this.#resumeGuest();
  }

  #onUpstreamError(error: Error): void {
    if (this.#isClosing) return;
    // Truncates an answer, so that the guest does not take it as complete.
    if (this.#isConnected) {
      this.destroy();
      return;
    }
    const { address, port } = this.#destination;
    const why = `${this.#host} at ${address} port ${port}: ${describeError(error)}`;
    this.#apply(this.#exchange.upstreamEnded(why.slice(0, WHY_CHARACTERS_MAX)));
  }

  #count(direction: 'sent' | 'received', bytes: number): boolean {
    this.#idle.touch();
    return this.#context.onBytes(direction, bytes);
  }

  #close(): void {
    const { clock, timeouts } = this.#context;
    this.#isClosing = true;
    this.#disarmHead();
    this.#upstream?.destroy();
    // Reads and drops what still arrives: an unread byte would turn the end into a reset.
    this.#guest?.resume();
    this.#guest?.end(() => {
      this.#cancelLinger = clock.after(timeouts.lingerMs, () => this.destroy());
    });
  }

  #armHead(): void {
    this.#cancelHead ??= this.#context.clock.after(this.#context.timeouts.headMs, () => {
      this.#context.onRefused('head_timeout', 'the guest took too long to send its request head');
      this.destroy();
    });
  }

  #disarmHead(): void {
    this.#cancelHead?.();
    this.#cancelHead = undefined;
  }

  #onClosed(): void {
    this.#isClosing = true;
    this.#disarmHead();
    this.#idle.stop();
    this.#cancelLinger?.();
    this.#queue = [];
    this.#upstream?.destroy();
    this.#guest?.destroy();
  }
}
