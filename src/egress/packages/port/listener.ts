/** The HTTP server of one port (io). Requests that Node's strict parser accepts are checked again. */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { dropInput } from '../../../base/drop-input.ts';
import { errorCode } from '../../../base/errors.ts';
import { closeServer, guestServer, isAnswerable, listenPrivately } from '../../../base/http/guest-server.ts';
import { MIB } from '../../../base/units.ts';
import { PackageError } from '../errors.ts';
import { PORT_LIMITS } from '../limits.ts';
import type { PackageRules } from '../policy.ts';
import { type Refusal, refused } from '../refusal.ts';
import { Exchange, type ExchangeContext } from './exchange.ts';

/** For a refused body, so that its sender can read the answer. */
const LINGER = { lingerBytesMax: 8 * MIB, lingerTimeoutMs: 10_000 };

export class Listener {
  #context: ExchangeContext;
  readonly #server: Server;
  readonly #running = new Set<Promise<void>>();

  constructor(context: ExchangeContext) {
    this.#context = context;
    this.#server = guestServer(PORT_LIMITS, PORT_LIMITS.headersTimeoutMs, (request, response) =>
      this.#onRequest(request, response),
    );
    this.#server.timeout = PORT_LIMITS.stallTimeoutMs;
    this.#server.on('clientError', (error, socket) => onClientError(error, socket));
  }

  /** @throws PackageError `listen_failed` */
  async listen(socketPath: string): Promise<void> {
    const onError = ({ message }: Error): void => this.#context.log.warn('package port', { error: message });
    await listenPrivately(this.#server, socketPath, onError).catch((cause: unknown) => {
      throw new PackageError('listen_failed', `listen on ${socketPath}`, { cause });
    });
  }

  /** Applies to requests that arrive from now on. */
  setRules(rules: PackageRules): void {
    this.#context = { ...this.#context, rules };
  }

  async close(): Promise<void> {
    await closeServer(this.#server);
    await Promise.all(this.#running);
  }

  #onRequest(request: IncomingMessage, response: ServerResponse): void {
    const exchange = new Exchange(this.#context, request, response);
    const refusal = checkRequest(request, this.#running.size);
    if (refusal !== undefined) {
      response.setHeader('connection', 'close');
      exchange.refuse(refusal);
      dropInput(request, { clock: this.#context.clock, limits: LINGER }, () => undefined);
      return;
    }
    request.resume();
    const running = exchange.run().finally(() => this.#running.delete(running));
    this.#running.add(running);
  }
}

function checkRequest(request: IncomingMessage, inFlight: number): Refusal | undefined {
  const { headers, rawHeaders, method = '' } = request;
  if (method !== 'GET' && method !== 'HEAD') {
    const message = `Only packages can be fetched here, by GET; ${method.slice(0, 20)} is refused.`;
    return refused(405, 'method_refused', message).refusal;
  }
  if (rawHeaders.length / 2 > PORT_LIMITS.requestHeadersMax) {
    return refused(431, 'bad_request', 'The request has too many headers.').refusal;
  }
  if (request.httpVersion !== '1.1' && request.httpVersion !== '1.0') {
    return refused(400, 'bad_request', 'Requests are of HTTP/1.1.').refusal;
  }
  const names = rawHeaders.filter((_, index) => index % 2 === 0).map((name) => name.toLowerCase());
  const isTwice = ['host', 'content-length', 'transfer-encoding', 'range'].some(
    (name) => names.filter((one) => one === name).length > 1,
  );
  const hasBody = headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
  if (isTwice || hasBody) {
    return refused(400, 'bad_request', 'Package requests have no body and no field twice.').refusal;
  }
  if (inFlight < PORT_LIMITS.requestsInFlightMax) return undefined;
  return refused(429, 'busy', 'Too many package requests at once.').refusal;
}

function onClientError(error: Error, socket: Duplex): void {
  if (!isAnswerable(error, socket)) {
    socket.destroy();
    return;
  }
  const isLarge = errorCode(error) === 'HPE_HEADER_OVERFLOW';
  const status = isLarge ? '431 Request Header Fields Too Large' : '400 Bad Request';
  socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
}
