/** The requests that this host sends for a guest or a caller: all checks of the address are here (io). */
import { lookup } from 'node:dns/promises';
import { isIP, type LookupFunction } from 'node:net';
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import type { Dispatcher } from 'undici';
import type { Clock } from '../../base/clock.ts';
import { CodedError, errorCode } from '../../base/errors.ts';
import { orAborted, timeLimit } from '../../base/time-limit.ts';
import { type AddressJudge, allowedOf, hostOf, type ResolvedAddress } from './address.ts';
import { type Answer, answerOf } from './answer.ts';
import { OutgoingError, readFailure } from './errors.ts';
import { type Proxies, proxyFor } from './proxy.ts';
import { loadUndici } from './undici.ts';

export interface OutgoingOptions {
  readonly clock: Clock;
  /** Limit in ms of silence: until the head has arrived, including name lookup and connection, and between bytes. */
  readonly silenceMsMax: number;
  readonly headBytesMax: number;
  /** Default: the host's resolver. */
  readonly resolve?: Resolve | undefined;
}

export type Resolve = (name: string) => Promise<readonly ResolvedAddress[]>;

/** How a URL may be reached. */
export interface Route {
  /** `null` if the host's owner chose the URL: it is reached at any address, and its connections are kept. */
  readonly judge: AddressJudge | null;
  /** Fields for this URL only, e.g. credentials. */
  readonly headers?: Readonly<Record<string, string>>;
  /** PEM of certificates trusted in addition to the system's. */
  readonly ca?: string | undefined;
  readonly proxies?: Proxies | undefined;
}

export interface OutgoingRequest {
  readonly url: URL;
  /** Called for the URL and for each redirect. Throws if it may not be reached. */
  readonly routeOf: (url: URL) => Route;
  readonly headers: Readonly<Record<string, string>>;
  /** If given, it is sent by POST. */
  readonly body?: string;
  /** 0: a redirect is an answer like others. */
  readonly redirectsMax: number;
  /** Limit in ms for everything, up to the last byte of the body. */
  readonly wholeMsMax: number;
  readonly signal?: AbortSignal;
}

/** Hosts with kept connections. */
const HOSTS_MAX = 32;
/** An idle connection is closed after this time in ms, even if its server would keep it longer. */
const IDLE_MS_MAX = 60_000;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);
/** The server closed an idle connection during the write, so it has not seen the request. */
const STALE: ReadonlySet<string | undefined> = new Set(['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET']);

/** Where a request is sent: a dispatcher, and the origin it connects to. */
interface Line {
  readonly dispatcher: Dispatcher;
  readonly origin: string;
  readonly isKept: boolean;
}

export class OutgoingClient {
  readonly #options: OutgoingOptions;
  readonly #kept = new Map<string, Line>();
  readonly #contexts = new Map<string | undefined, SecureContext>();

  constructor(options: OutgoingOptions) {
    this.#options = options;
  }

  /**
   * Resolves when the head of the answer has arrived, whatever its status.
   * @throws OutgoingError, the error of `routeOf`, or the signal's reason
   */
  async send(request: OutgoingRequest): Promise<Answer> {
    const { redirectsMax, wholeMsMax, signal } = request;
    const whole = timeLimit(this.#options.clock, wholeMsMax, signal);
    const end = (): void => whole[Symbol.dispose]();
    try {
      let { url } = request;
      for (let redirects = 0; redirects <= redirectsMax; redirects += 1) {
        const answer = await this.#attempt(url, request, whole.signal, false);
        const location = answer.header('location');
        if (redirectsMax === 0 || !REDIRECTS.has(answer.status) || location === undefined) {
          answer.onClose(end);
          return answer;
        }
        answer.destroy();
        const next = URL.parse(location, url.href);
        if (next === null) throw new OutgoingError('invalid', 'a redirect leads nowhere');
        url = next;
      }
      throw new OutgoingError('invalid', 'the server redirects too often');
    } catch (error) {
      end();
      throw error;
    }
  }

  close(): void {
    for (const { dispatcher } of this.#kept.values()) void dispatcher.destroy();
    this.#kept.clear();
  }

  async #attempt(url: URL, request: OutgoingRequest, whole: AbortSignal, isFresh: boolean): Promise<Answer> {
    const { silenceMsMax, clock } = this.#options;
    using head = timeLimit(clock, silenceMsMax, whole);
    /** The error for the caller. */
    const failure = (error: unknown): unknown => {
      if (request.signal?.aborted === true) return request.signal.reason;
      if (head.signal.aborted) return new OutgoingError('timeout', `${url.host}: ${head.signal.reason.message}`);
      return error instanceof CodedError ? error : readFailure(error, url);
    };
    let line: Line | undefined;
    try {
      const route = request.routeOf(url);
      line = await this.#lineTo(url, route, isFresh, head.signal);
      const { dispatcher, origin, isKept } = line;
      const { body = null } = request;
      const sent = dispatcher.request({
        origin,
        path: `${url.pathname}${url.search}`,
        method: body === null ? 'GET' : 'POST',
        headers: { ...request.headers, host: url.host, ...route.headers },
        body,
        reset: !isKept,
        signal: head.signal,
      });
      const answer = answerOf(url, await orAborted(sent, head.signal), failure);
      if (!isKept) answer.onClose(() => void dispatcher.destroy());
      return answer;
    } catch (error) {
      if (line?.isKept === false) void line.dispatcher.destroy();
      const isStale = line?.isKept === true && STALE.has(errorCode(error));
      if (isStale && request.body === undefined) return this.#attempt(url, request, whole, true);
      throw failure(error);
    }
  }

  /** @param isFresh true to use no existing connection */
  async #lineTo(url: URL, route: Route, isFresh: boolean, signal: AbortSignal): Promise<Line> {
    const undici = await loadUndici();
    const { origin } = url;
    const proxy = proxyFor(url, route.proxies);
    if (route.judge !== null) {
      const to = await this.#judged(url, route.judge, proxy, signal);
      return { dispatcher: this.#open(undici, to, { proxy }), origin: to.origin, isKept: false };
    }
    const { ca } = route;
    const key = `${origin} ${proxy ?? ''} ${ca ?? ''}`;
    const known = this.#kept.get(key);
    if (known !== undefined && !isFresh) return known;
    // A page may name any port of a host, and kept lines in use are never dropped.
    const isKept = !isFresh && this.#kept.size < HOSTS_MAX;
    const line = { dispatcher: this.#open(undici, { origin }, { proxy, ca }), origin, isKept };
    if (isKept) this.#kept.set(key, line);
    return line;
  }

  /**
   * Judges the addresses that the connection will use, so a name can't change between check and use. A proxy would
   * resolve the name itself, and may reach private addresses, so it gets a judged address.
   */
  async #judged(url: URL, judge: AddressJudge, proxy: string | undefined, signal: AbortSignal): Promise<Target> {
    if (proxy === undefined) {
      return { origin: url.origin, lookup: lookupOf(await this.#allowed(url, judge, signal)) };
    }
    if (url.protocol !== 'https:') throw refusedThroughProxy(url);
    const allowed = await this.#allowed(url, judge, signal).catch((error: unknown) => {
      throw error instanceof OutgoingError || signal.aborted ? error : refusedThroughProxy(url, error);
    });
    const { address = '', family } = allowed[0] ?? {};
    const origin = `https://${family === 6 ? `[${address}]` : address}:${url.port || '443'}`;
    const host = hostOf(url);
    return isIP(host) === 0 ? { origin, servername: host } : { origin };
  }

  async #allowed(url: URL, judge: AddressJudge, signal: AbortSignal): Promise<readonly ResolvedAddress[]> {
    const { resolve = (name) => lookup(name, { all: true }) } = this.#options;
    const host = hostOf(url);
    const family = isIP(host);
    const found = family === 0 ? await orAborted(resolve(host), signal) : [{ address: host, family }];
    try {
      return allowedOf(found, judge);
    } catch (error) {
      const message = `connect to ${url.protocol}//${url.host}`;
      throw new OutgoingError('address_refused', message, { cause: error });
    }
  }

  #open(
    { Pool, ProxyAgent }: typeof import('undici'),
    { origin, ...place }: Target,
    { proxy, ca }: { readonly proxy: string | undefined; readonly ca?: string | undefined },
  ): Dispatcher {
    const { silenceMsMax, headBytesMax } = this.#options;
    const limits = {
      allowH2: false,
      maxHeaderSize: headBytesMax,
      headersTimeout: silenceMsMax,
      bodyTimeout: silenceMsMax,
      connectTimeout: silenceMsMax,
      keepAliveMaxTimeout: IDLE_MS_MAX,
    };
    const secure = (url: string): object => (url.startsWith('https:') ? { secureContext: this.#trusting(ca) } : {});
    const connect = { timeout: silenceMsMax, allowH2: false, ...place, ...secure(origin) };
    if (proxy === undefined) return new Pool(origin, { ...limits, connect });
    const factory = (to: string | URL, options: object): Dispatcher => new Pool(to, { ...limits, ...options });
    const proxyTls = secure(proxy);
    return new ProxyAgent({ ...limits, uri: proxy, requestTls: connect, proxyTls, factory, clientFactory: factory });
  }

  /** Cached: reading the certificates takes longer than a handshake. */
  #trusting(ca: string | undefined): SecureContext {
    const known = this.#contexts.get(ca);
    if (known !== undefined) return known;
    const all = [...getCACertificates('default'), ...getCACertificates('system')];
    const context = createSecureContext({ ca: ca === undefined ? all : [...all, ca] });
    this.#contexts.set(ca, context);
    return context;
  }
}

/** What a connection is opened to. */
interface Target {
  readonly origin: string;
  readonly lookup?: LookupFunction;
  /** The name that the certificate must have, where the origin has an address. */
  readonly servername?: string;
}

function lookupOf(targets: readonly ResolvedAddress[]): LookupFunction {
  return (_name, { all }, callback) => {
    const [first] = targets;
    if (all === true) callback(null, [...targets]);
    else callback(null, first?.address ?? '', first?.family);
  };
}

function refusedThroughProxy({ host }: URL, cause?: unknown): OutgoingError {
  const why = 'only HTTPS, to an address that this host knows as public';
  return new OutgoingError('address_refused', `connect to ${host} through the host's proxy: ${why}`, { cause });
}
