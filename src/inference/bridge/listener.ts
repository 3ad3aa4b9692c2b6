/**
 * The HTTP server of one port (io). Requests that Node's strict parser accepts are checked again, one at a time.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { dropInput } from '../../base/drop-input.ts';
import { errorCode } from '../../base/errors.ts';
import { closeServer, guestServer, isAnswerable, listenPrivately } from '../../base/http/guest-server.ts';
import type { Refusal } from '../../base/http/refusal.ts';
import { dialectOf } from './dialect/dialects.ts';
import { openaiDialect } from './dialect/openai/openai.ts';
import { BridgeError } from './errors.ts';
import { Exchange } from './exchange/exchange.ts';
import type { ExchangeContext } from './exchange-context.ts';
import { SUSPENDED } from './failure.ts';
import { checkFraming } from './headers.ts';
import type { BridgeLimits } from './limits.ts';
import type { BridgePolicy } from './policy.ts';

/** Counters since the port was attached, and three gauges. */
export interface PortStats {
  readonly connections: number;
  readonly inFlight: number;
  readonly bodyBytes: number;
  readonly requests: number;
  readonly served: number;
  /** Requests refused by policy, limits or format. */
  readonly refused: number;
  /** Requests that failed because of the upstream. */
  readonly failed: number;
  readonly cancelled: number;
  /** Connections above the limit, and those that broke the protocol. */
  readonly dropped: number;
}

export class Listener {
  #context: ExchangeContext;
  readonly #server: Server;
  readonly #exchanges = new Set<Exchange>();
  readonly #current = new WeakMap<Duplex, ServerResponse>();
  /** Connections whose error was answered; further input is dropped. */
  readonly #lingering = new WeakSet<Duplex>();
  readonly #counts = { requests: 0, served: 0, refused: 0, failed: 0, cancelled: 0, dropped: 0 };
  #connections = 0;
  #isSuspended = false;

  constructor(context: ExchangeContext) {
    this.#context = context;
    const { limits } = context;
    const requestTimeoutMs = Math.max(limits.bodyTimeoutMs, limits.headersTimeoutMs);
    this.#server = guestServer(limits, requestTimeoutMs, (request, response) => this.#onRequest(request, response));
    this.#server.on('connection', (socket) => this.#onConnection(socket));
    this.#server.on('drop', () => {
      this.#counts.dropped += 1;
    });
    this.#server.on('clientError', (error, socket) => this.#onClientError(error, socket));
  }

  /** @throws BridgeError `listen_failed` */
  async listen(socketPath: string): Promise<void> {
    const onError = ({ message }: Error): void => this.#context.log.warn('inference port', { error: message });
    await listenPrivately(this.#server, socketPath, onError).catch((cause: unknown) => {
      throw new BridgeError('listen_failed', `listen on ${socketPath}`, { cause });
    });
  }

  setPolicy(policy: BridgePolicy): void {
    this.#context = { ...this.#context, policy };
  }

  stats(): PortStats {
    const { memory, sandboxId } = this.#context;
    const inFlight = this.#exchanges.size;
    return { connections: this.#connections, inFlight, bodyBytes: memory.heldBy(sandboxId), ...this.#counts };
  }

  setSuspended(isSuspended: boolean): void {
    this.#isSuspended = isSuspended;
    if (!isSuspended) return;
    for (const exchange of this.#exchanges) {
      exchange.cancel(new BridgeError('suspended', 'the sandbox is being saved'));
    }
  }

  async close(): Promise<void> {
    for (const exchange of this.#exchanges) {
      exchange.cancel(new BridgeError('cancelled', 'the port was closed'));
    }
    await closeServer(this.#server);
  }

  #onConnection(socket: Socket): void {
    this.#connections += 1;
    socket.once('close', () => {
      this.#connections -= 1;
    });
  }

  #onRequest(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    const previous = this.#current.get(socket);
    if (previous !== undefined && !previous.writableEnded) {
      // Pipelining is not served: clients of model servers don't use it, and request smuggling needs it.
      this.#counts.dropped += 1;
      socket.destroy();
      return;
    }
    this.#current.set(socket, response);
    this.#counts.requests += 1;
    const exchange = new Exchange(this.#contextNow(), request, response);
    const refusal = this.#check(request);
    if (refusal !== undefined) {
      this.#counts.refused += 1;
      exchange.refuse(refusal);
      return;
    }
    this.#exchanges.add(exchange);
    void exchange.run().then((end) => {
      this.#counts[end] += 1;
      this.#exchanges.delete(exchange);
    });
  }

  /** The operator may have changed what the tenant may use. */
  #contextNow(): ExchangeContext {
    const context = this.#context;
    const { modelsOf, tenantOf, sandboxId, policy } = context;
    const tenantModels = modelsOf(tenantOf(sandboxId));
    return tenantModels === undefined ? context : { ...context, policy: { ...policy, tenantModels } };
  }

  #check(request: IncomingMessage): Refusal | undefined {
    const { limits } = this.#context;
    if (this.#isSuspended) return SUSPENDED;
    if (request.rawHeaders.length / 2 > limits.requestHeadersMax) {
      const message = `The request has more than ${limits.requestHeadersMax} headers.`;
      return { status: 431, code: 'too_many_headers', message };
    }
    const framing = checkFraming(request.rawHeaders);
    if (!framing.ok) return framing.refusal;
    if (request.headers.upgrade !== undefined) {
      const message = 'Protocol upgrades are not supported; use plain HTTP/1.1 requests.';
      return { status: 426, code: 'upgrade_refused', message };
    }
    const encoding = request.headers['content-encoding'];
    if (encoding !== undefined && encoding !== 'identity') {
      const message = 'Compressed bodies are not supported; send the body uncompressed.';
      return { status: 415, code: 'encoding_refused', message };
    }
    if (this.#exchanges.size >= limits.requestsInFlightMax) return busy(limits);
    return undefined;
  }

  /** Answers invalid bytes and requests that take too long, unless another answer is in progress. */
  #onClientError(error: Error, socket: Duplex): void {
    if (this.#lingering.has(socket)) return;
    this.#counts.dropped += 1;
    const current = this.#current.get(socket);
    const begun = current !== undefined && (current.headersSent || current.req.complete);
    const answering = begun && !current.writableEnded;
    if (answering || !isAnswerable(error, socket)) {
      socket.destroy();
      return;
    }
    const refusal = CLIENT_ERRORS[errorCode(error) ?? ''] ?? BAD_REQUEST;
    const dialect = current === undefined ? openaiDialect : dialectOf(current.req.url ?? '', current.req.headers);
    const body = dialect.error(refusal);
    const head = [
      `HTTP/1.1 ${dialect.status(refusal)} ${refusal.code}`,
      'content-type: application/json',
      `content-length: ${Buffer.byteLength(body)}`,
      'connection: close',
    ];
    this.#lingering.add(socket);
    socket.removeAllListeners('data');
    socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
    dropInput(socket, this.#context, () => socket.destroy());
  }
}

function busy(limits: BridgeLimits): Refusal {
  const message =
    `This sandbox has ${limits.requestsInFlightMax} requests in flight, which is its limit. ` +
    'Retry when one has finished.';
  return { status: 429, code: 'too_many_requests', message, retryAfterSeconds: 1 };
}

const BAD_REQUEST: Refusal = {
  status: 400,
  code: 'bad_request',
  message: 'This is not an unambiguous HTTP/1.1 request.',
};

/** Node's error code → the answer. */
const CLIENT_ERRORS: Readonly<Record<string, Refusal>> = {
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, code: 'request_timeout', message: 'The request took too long to arrive.' },
  HPE_HEADER_OVERFLOW: { status: 431, code: 'headers_too_large', message: 'The headers of the request are too large.' },
};
