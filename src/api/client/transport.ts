/** HTTP requests to one daemon: keep-alive connections, validated answers (io). */
import type { ClientRequest, IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { type Duplex, Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { formatTraceparent, type SpanContext } from '../../base/trace/trace.ts';
import { MIB } from '../../base/units.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { Answer } from './answers.ts';
import { connectFailure } from './connect-failure.ts';
import { type DaemonAddress, Dialer } from './dialer.ts';
import { answerError, answerInvalid } from './errors.ts';
import { NextDaemon } from './next-daemon.ts';

export type { DaemonAddress } from './dialer.ts';

export interface Call<T> {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Below `/v1`. */
  readonly path: string;
  readonly query?: URLSearchParams | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly answer: Answer<T>;
  readonly signal?: AbortSignal | undefined;
  /** Reverses the request, for an answer that arrives after the abort. */
  readonly undo?: (value: T) => Promise<unknown>;
}

const LIMITS = {
  answerBytesMax: 64 * MIB,
  /** Time for the daemon to close the connection of an aborted request. */
  abortMsMax: 5000,
} as const;

export class Transport {
  readonly #dialer: Dialer;
  readonly #next: NextDaemon;
  readonly #headers: Readonly<Record<string, string>>;

  /** @throws ClientError `address_invalid` */
  constructor(address: DaemonAddress) {
    this.#dialer = new Dialer(address);
    this.#next = new NextDaemon(address);
    const key = 'url' in address && address.apiKey !== undefined ? { 'x-api-key': address.apiKey } : {};
    this.#headers = { ...key, ...traceHeader(address.trace) };
  }

  /**
   * After the loss of the daemon: waits for the next one, if the request may be repeated.
   * @throws ClientError; SandboxError as thrown by the daemon's control plane
   */
  async call<T>(call: Call<T>): Promise<T> {
    const { method, signal } = call;
    const isIdempotent = method === 'GET' || method === 'PUT';
    return await this.#next.retry(() => this.#callOnce(call), { isIdempotent, signal });
  }

  async #callOnce<T>(call: Call<T>): Promise<T> {
    const { undo } = call;
    if (undo === undefined) return this.#parse(call, await this.#send(call), call.signal);
    // An answer that has begun names what to undo, so it is read to its end.
    const answer = await this.#send(call);
    const value = await this.#parse(call, answer, undefined);
    if (call.signal?.aborted !== true) return value;
    let failure: unknown = call.signal.reason;
    try {
      await undo(value);
    } catch (error) {
      failure = error;
    }
    throw new SandboxError('cancelled', 'the request was canceled', { cause: failure });
  }

  async #parse<T>(call: Call<T>, answer: IncomingMessage, signal: AbortSignal | undefined): Promise<T> {
    const text = await this.#read(answer, signal);
    const body = text === '' ? null : parseJson(text);
    const { statusCode: status = 0 } = answer;
    if (status >= 300 || status < 200) throw answerError(status, body);
    const read = call.answer.read(body);
    if (read === null) throw answerInvalid(`${call.method} ${call.path}`);
    return read.value;
  }

  /**
   * Returns an answer whose body streams.
   * @param isAwaited true if the connection keeps the process alive
   * @param body of a POST request: a value, or bytes that are sent as they come; without one the method is GET
   */
  async stream(
    path: string,
    signal: AbortSignal,
    isAwaited: boolean,
    body?: object | AsyncIterable<Uint8Array>,
  ): Promise<IncomingMessage> {
    const method = body === undefined ? 'GET' : 'POST';
    const isBytes = body !== undefined && Symbol.asyncIterator in body;
    const answer = await this.#sent(
      { method, path, signal },
      isBytes || body === undefined ? body : JSON.stringify(body),
    );
    const { statusCode: status = 0, socket } = answer;
    if (status !== 200) throw answerError(status, parseJson(await this.#read(answer, signal)));
    if (!isAwaited) socket.unref();
    return answer;
  }

  /** Returns a text answer. @param path absolute, not below `/v1` */
  async text(path: string, signal?: AbortSignal): Promise<string> {
    const get = async (): Promise<string> => {
      const answer = await this.#sent({ method: 'GET', path, signal, base: '' }, undefined);
      const text = await this.#read(answer, signal);
      const { statusCode: status = 0 } = answer;
      if (status !== 200) throw answerError(status, parseJson(text));
      return text;
    };
    return await this.#next.retry(get, { isIdempotent: true, signal });
  }

  /** Opens a new connection and upgrades it to raw bytes in both directions, with half-closes. */
  async upgrade(path: string, protocol: string, signal?: AbortSignal): Promise<Duplex> {
    return await this.#next.retry(() => this.#upgradeOnce(path, protocol, signal), { isIdempotent: true, signal });
  }

  async #upgradeOnce(path: string, protocol: string, signal: AbortSignal | undefined): Promise<Duplex> {
    const outgoing = this.#dialer.requestAlone({
      path: `/v1${path}`,
      headers: { ...this.#headers, connection: 'upgrade', upgrade: protocol },
      ...(signal === undefined ? {} : { signal }),
    });
    const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
    outgoing.once('upgrade', (_answer, socket: Socket, head: Buffer) => {
      this.#next.onAnswer();
      socket.setNoDelay(true);
      if (head.length > 0) socket.unshift(head);
      resolve(socket);
    });
    outgoing.once('response', (answer) => {
      this.#read(answer, undefined).then((text) => {
        reject(answerError(answer.statusCode ?? 0, parseJson(text)));
        outgoing.destroy();
      }, reject);
    });
    outgoing.on('error', (error) => reject(this.#failure(error, signal)));
    outgoing.end();
    return await promise;
  }

  close(): void {
    this.#next.close();
    this.#dialer.close();
  }

  async #send<T>(call: Call<T>): Promise<IncomingMessage> {
    const { method, path, query, body, signal, headers } = call;
    const search = query === undefined || query.size === 0 ? '' : `?${query}`;
    const text = body === undefined ? undefined : JSON.stringify(body);
    const sent = { method, path: path + search, signal, undo: call.undo, headers };
    return await this.#sent(sent, text);
  }

  async #sent(
    call: {
      method: string;
      path: string;
      signal: AbortSignal | undefined;
      base?: string;
      undo?: Call<never>['undo'];
      headers?: Call<never>['headers'];
    },
    body: string | AsyncIterable<Uint8Array> | undefined,
  ): Promise<IncomingMessage> {
    const { method, path, signal, base = '/v1' } = call;
    if (signal?.aborted === true) throw this.#failure(signal.reason, signal);
    const isDestroyedOnAbort = call.undo === undefined;
    const isText = typeof body === 'string';
    const type = body === undefined ? {} : { 'content-type': isText ? 'application/json' : 'application/octet-stream' };
    for (let attempt = 1; ; attempt += 1) {
      const outgoing = this.#dialer.request({
        method,
        path: base + path,
        headers: { ...this.#headers, ...type, ...call.headers },
        ...(signal !== undefined && isDestroyedOnAbort ? { signal } : {}),
      });
      const stop = isDestroyedOnAbort ? undefined : endOnAbort(outgoing, signal);
      try {
        return await new Promise((resolve, reject) => {
          outgoing.once('response', (answer) => {
            stop?.();
            this.#next.onAnswer();
            resolve(answer);
          });
          outgoing.on('error', reject);
          if (isText || body === undefined) outgoing.end(body);
          else pipeline(Readable.from(body), outgoing).catch(reject);
        });
      } catch (error) {
        stop?.();
        // The daemon closed the idle connection before it read the request.
        const stale = outgoing.reusedSocket && errorCode(error) === 'ECONNRESET';
        if (!stale || method !== 'GET' || attempt > 1) throw this.#failure(error, signal);
        ignore(error, 'the idle connection was closed; retried on a new one');
      }
    }
  }

  async #read(answer: IncomingMessage, signal: AbortSignal | undefined): Promise<string> {
    const parts: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const part of answer as AsyncIterable<Buffer>) {
        bytes += part.length;
        if (bytes > LIMITS.answerBytesMax) break;
        parts.push(part);
      }
    } catch (error) {
      throw this.#failure(error, signal);
    }
    if (bytes > LIMITS.answerBytesMax) throw answerInvalid('it exceeds its size limit');
    return Buffer.concat(parts).toString();
  }

  #failure(error: unknown, signal: AbortSignal | undefined): Error {
    if (signal?.aborted === true) {
      return new SandboxError('cancelled', 'the request was canceled', { cause: signal.reason });
    }
    return connectFailure(error, this.#dialer.place);
  }
}

/**
 * On an abort, ends the sending half of the connection. The daemon then cancels the request and closes its half; an
 * answer that it wrote before still arrives. Returns a function that stops this.
 */
function endOnAbort(outgoing: ClientRequest, signal: AbortSignal | undefined): () => void {
  let timer: NodeJS.Timeout | undefined;
  const onAbort = (): void => {
    const { socket } = outgoing;
    if (socket === null || socket.connecting) {
      outgoing.destroy();
      return;
    }
    socket.end();
    timer = setTimeout(() => outgoing.destroy(), LIMITS.abortMsMax);
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  return () => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  };
}

function traceHeader(trace: SpanContext | undefined): Record<string, string> {
  return trace === undefined ? {} : { traceparent: formatTraceparent(trace) };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw answerInvalid('not valid JSON', error);
  }
}
