/** Sends requests to model servers over pooled connections (io). */
import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { getCACertificates } from 'node:tls';
import type { Clock } from '../../../base/clock.ts';
import { errorCode } from '../../../base/errors.ts';
import { BridgeError, NotConnectedError } from '../errors.ts';
import type { BridgeLimits } from '../limits.ts';
import { type Endpoint, endpointOf, type UpstreamTarget } from './address.ts';

export interface UpstreamRequest {
  readonly target: UpstreamTarget;
  readonly method: 'GET' | 'POST';
  /** Path below the target's prefix. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: readonly Buffer[];
  /** Default: JSON. */
  readonly contentType?: string;
  readonly limits: Pick<BridgeLimits, 'connectTimeoutMs'>;
  /** Cancels in every phase, including while the answer is read. */
  readonly signal: AbortSignal;
  readonly onConnected?: () => void;
}

/** Anthropic's API requires it; used unless the guest names another version. */
const ANTHROPIC_VERSION = '2023-06-01';
/** Limit of open connections per upstream and process: more than all guests may have in flight together. */
const CONNECTIONS_MAX = 1024;
const IDLE_CONNECTIONS_MAX = 32;
/** More than `models.toml` may name. Engines have a new address at each start, so old pools are closed. */
const POOLS_MAX = 256;

export class UpstreamClient {
  readonly #clock: Clock;
  readonly #agents = new Map<string, HttpAgent>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Resolves when the head of the answer has arrived, whatever its status.
   * @throws BridgeError `upstream_unreachable` (`NotConnectedError` if nothing was sent), `upstream_timeout`, or the
   * signal's reason
   */
  async send(request: UpstreamRequest): Promise<IncomingMessage> {
    const endpoint = endpointOf(request.target);
    const agent = this.#agent(endpoint);
    const first = await this.#attempt(request, endpoint, agent);
    if (first !== 'stale') return first;
    // The server closed the idle connection during the write, so it has not seen the request.
    const second = await this.#attempt(request, endpoint, false);
    if (second !== 'stale') return second;
    throw unreachable(request.target, undefined, true);
  }

  close(): void {
    for (const agent of this.#agents.values()) agent.destroy();
    this.#agents.clear();
  }

  #attempt(request: UpstreamRequest, endpoint: Endpoint, agent: HttpAgent | false): Promise<IncomingMessage | 'stale'> {
    const { signal, target } = request;
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const outgoing = open(request, endpoint, agent);
      const connected = endpoint.secure ? 'secureConnect' : 'connect';
      const stopTimer = this.#limitConnect(outgoing, request, connected);
      const onAbort = (): void => void outgoing.destroy(asError(signal.reason));
      signal.addEventListener('abort', onAbort, { once: true });
      let answered = false;
      let isConnected = false;
      const onConnected = (): void => {
        isConnected = true;
        request.onConnected?.();
      };
      outgoing.once('socket', (socket) => {
        if (outgoing.reusedSocket) onConnected();
        else socket.once(connected, onConnected);
      });
      const lost = (cause: unknown): BridgeError => unreachable(target, cause, isConnected);
      outgoing.on('close', () => {
        stopTimer();
        signal.removeEventListener('abort', onAbort);
        // Covers answers that Node does not report, e.g. 101. After any other one, nothing waits for the error.
        if (!answered) reject(lost(new Error('no answer')));
      });
      outgoing.on('response', (response) => {
        answered = true;
        resolve(response);
      });
      outgoing.on('error', (error) => {
        // After the head, the response's own events report the end.
        if (answered) return;
        if (signal.aborted) reject(signal.reason);
        else if (outgoing.reusedSocket && isClosedByPeer(error)) resolve('stale');
        else reject(error instanceof BridgeError ? error : lost(error));
      });
      // Sends body and head in one packet if they fit.
      outgoing.cork();
      for (const piece of request.body ?? []) outgoing.write(piece);
      outgoing.end();
      outgoing.uncork();
    });
  }

  #limitConnect(outgoing: ClientRequest, request: UpstreamRequest, connected: 'connect' | 'secureConnect'): () => void {
    const { connectTimeoutMs } = request.limits;
    let stop: () => void = () => undefined;
    outgoing.once('socket', (socket) => {
      if (!socket.connecting) return;
      const cancel = this.#clock.after(connectTimeoutMs, () => {
        const error = new Error('the connection timed out');
        outgoing.destroy(unreachable(request.target, error, false));
      });
      stop = cancel;
      socket.once(connected, cancel);
    });
    return () => stop();
  }

  #closeIdle(): void {
    for (const [key, agent] of this.#agents) {
      if (Object.keys(agent.sockets).length > 0 || Object.keys(agent.requests).length > 0) continue;
      agent.destroy();
      this.#agents.delete(key);
    }
  }

  #agent(endpoint: Endpoint): HttpAgent {
    const known = this.#agents.get(endpoint.key);
    if (known !== undefined) return known;
    if (this.#agents.size >= POOLS_MAX) this.#closeIdle();
    const options = {
      keepAlive: true,
      maxSockets: CONNECTIONS_MAX,
      maxFreeSockets: IDLE_CONNECTIONS_MAX,
      scheduling: 'lifo' as const,
    };
    const agent = endpoint.secure
      ? new HttpsAgent({ ...options, ca: trusted(endpoint.authority) })
      : new HttpAgent(options);
    this.#agents.set(endpoint.key, agent);
    return agent;
  }
}

function open(request: UpstreamRequest, endpoint: Endpoint, agent: HttpAgent | false): ClientRequest {
  const { target, body, contentType = 'application/json' } = request;
  const headers: Record<string, string> = {
    ...request.headers,
    // The bridge reads answers, so they must not be compressed.
    'accept-encoding': 'identity',
    'user-agent': 'neurovisor-bridge',
  };
  if (body !== undefined) {
    headers['content-type'] = contentType;
    headers['content-length'] = String(body.reduce((sum, { length }) => sum + length, 0));
  }
  if (target.api === 'anthropic') {
    headers['anthropic-version'] ??= ANTHROPIC_VERSION;
    if (target.apiKey !== undefined) headers['x-api-key'] = target.apiKey;
  } else if (target.apiKey !== undefined) headers['authorization'] = `Bearer ${target.apiKey}`;
  const place =
    endpoint.socketPath === undefined
      ? { host: endpoint.host, port: endpoint.port }
      : { socketPath: endpoint.socketPath };
  const send = endpoint.secure ? httpsRequest : httpRequest;
  // Without an agent, which holds the CAs, the request passes its own.
  const trust = endpoint.secure && agent === false ? { ca: trusted(endpoint.authority) } : {};
  return send({ ...place, ...trust, agent, method: request.method, path: endpoint.prefix + request.path, headers });
}

function unreachable(target: UpstreamTarget, cause: unknown, isConnected: boolean): BridgeError {
  const ErrorClass = isConnected ? BridgeError : NotConnectedError;
  return new ErrorClass('upstream_unreachable', `connect to ${target.name}`, {
    ...(cause === undefined ? {} : { cause }),
    remedy: 'start the model server on the host, or set NEUROVISOR_UPSTREAM to another one',
  });
}

/** The CAs that the host's other programs trust; Node's own if there are none. */
function trusted(own: string | undefined): string[] {
  if (own !== undefined) return [own];
  const system = getCACertificates('system');
  const known = system.length > 0 ? system : getCACertificates('bundled');
  return [...known, ...getCACertificates('extra')];
}

function isClosedByPeer(error: unknown): boolean {
  return ['ECONNRESET', 'EPIPE'].includes(errorCode(error) ?? '');
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new BridgeError('cancelled', 'cancelled');
}
