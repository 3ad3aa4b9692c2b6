/** Requests to indexes (io). Each is built anew; only names and digests come from a guest. */
import { lookup } from 'node:dns';
import { type IncomingMessage, request as requestHttp } from 'node:http';
import { type RequestOptions, request as requestHttps } from 'node:https';
import type { LookupFunction } from 'node:net';
import { createGunzip } from 'node:zlib';
import type { Clock } from '../../../base/clock.ts';
import { errorCode } from '../../../base/errors.ts';
import { orAborted } from '../../../base/time-limit.ts';
import { PackageError } from '../errors.ts';
import { UPSTREAM_LIMITS } from '../limits.ts';
import type { RawPage } from '../protocol/artifact.ts';
import { checkUrl, type IsPublic, isFileHost, isOfIndex, literalAddress, publicOnly } from './address.ts';
import { Connections } from './connections.ts';
import type { Index } from './index-set.ts';
import { proxyFor } from './proxy.ts';

export type UpstreamLimits = Readonly<Record<keyof typeof UPSTREAM_LIMITS, number>>;

export interface UpstreamOptions {
  readonly clock: Clock;
  readonly isPublic: IsPublic;
  readonly limits?: Partial<UpstreamLimits>;
  /** For tests. Default: the host's resolver. */
  readonly lookup?: typeof lookup | undefined;
}

export interface PageRequest {
  readonly url: string;
  readonly index: Index;
  readonly accept: string;
  readonly validators?: Validators | undefined;
  readonly signal: AbortSignal;
}

export interface Validators {
  readonly etag?: string | undefined;
  readonly lastModified?: string | undefined;
}

export type PageAnswer =
  | { readonly kind: 'page'; readonly page: RawPage; readonly validators: Validators }
  | { readonly kind: 'unchanged' };

export interface FileAnswer {
  /** `null` if unknown. */
  readonly sizeBytes: number | null;
  readonly lastModified: string | undefined;
  readonly contentType: string | undefined;
  readonly body: AsyncIterable<Buffer>;
}

export class Upstream {
  readonly #clock: Clock;
  readonly #isPublic: IsPublic;
  readonly #connections: Connections;
  readonly #limits: UpstreamLimits;
  readonly #lookup: typeof lookup;
  #pagesBytes = 0;

  constructor({ clock, isPublic, limits = {}, lookup: resolve = lookup }: UpstreamOptions) {
    this.#lookup = resolve;
    this.#clock = clock;
    this.#isPublic = isPublic;
    this.#limits = { ...UPSTREAM_LIMITS, ...limits };
    this.#connections = new Connections(clock, this.#limits.silenceTimeoutMs);
  }

  close(): void {
    this.#connections.close();
  }

  /** @throws PackageError; `upstream_status` for a status other than 200 and 304 */
  async page(request: PageRequest): Promise<PageAnswer> {
    const { pageTimeoutMs } = this.#limits;
    const { etag, lastModified } = request.validators ?? {};
    const headers = {
      accept: request.accept,
      'accept-encoding': 'gzip',
      ...(etag === undefined ? {} : { 'if-none-match': etag }),
      ...(lastModified === undefined ? {} : { 'if-modified-since': lastModified }),
    };
    using limit = this.#timeLimit(request.signal, pageTimeoutMs);
    const { answer, url } = await this.#follow(request, headers, limit.signal);
    if (answer.statusCode === 304) {
      answer.resume();
      return { kind: 'unchanged' };
    }
    requireOk(answer);
    const body = await this.#whole(answer);
    const { 'content-type': contentType = '', etag: newTag, 'last-modified': newDate } = answer.headers;
    const page = { url: url.href, contentType, body };
    return { kind: 'page', page, validators: { etag: newTag, lastModified: newDate } };
  }

  async #whole(answer: IncomingMessage): Promise<Buffer> {
    const { pageBytesMax, pagesBytesMax } = this.#limits;
    const chunks: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const chunk of this.#bytesOf(answer)) {
        bytes += chunk.length;
        this.#pagesBytes += chunk.length;
        if (bytes > pageBytesMax) {
          answer.destroy();
          const message = `the page is larger than ${pageBytesMax} bytes`;
          throw new PackageError('upstream_invalid', message);
        }
        if (this.#pagesBytes > pagesBytesMax) {
          answer.destroy();
          const message = `the pages under way are larger than ${pagesBytesMax} bytes`;
          throw new PackageError('overloaded', message);
        }
        chunks.push(chunk);
      }
      // Shared with the threads that parse pages, never copied.
      const whole = Buffer.from(new SharedArrayBuffer(bytes));
      let at = 0;
      for (const chunk of chunks) at += chunk.copy(whole, at);
      return whole;
    } finally {
      this.#pagesBytes -= bytes;
    }
  }

  /** The body ends with an error if the index breaks off, is silent, or exceeds the limit. @throws PackageError */
  async file(request: Omit<PageRequest, 'validators'>): Promise<FileAnswer> {
    const headers = { accept: request.accept, 'accept-encoding': 'identity' };
    const limit = this.#timeLimit(request.signal, this.#limits.fileTimeoutMs);
    try {
      const { answer } = await this.#follow(request, headers, limit.signal);
      requireOk(answer);
      if (answer.headers['content-encoding'] !== undefined) {
        answer.destroy();
        throw new PackageError('upstream_invalid', 'the index compressed a file');
      }
      const length = answer.headers['content-length'];
      const sizeBytes = length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : null;
      if ((sizeBytes ?? 0) > this.#limits.fileBytesMax) {
        answer.destroy();
        throw tooLarge(this.#limits.fileBytesMax);
      }
      answer.once('close', () => limit[Symbol.dispose]());
      const { 'last-modified': lastModified, 'content-type': contentType } = answer.headers;
      return { sizeBytes, lastModified, contentType, body: this.#limited(answer) };
    } catch (error) {
      limit[Symbol.dispose]();
      throw error;
    }
  }

  async *#limited(answer: IncomingMessage): AsyncIterable<Buffer> {
    let bytes = 0;
    for await (const chunk of this.#bytesOf(answer)) {
      bytes += chunk.length;
      if (bytes > this.#limits.fileBytesMax) {
        answer.destroy();
        throw tooLarge(this.#limits.fileBytesMax);
      }
      yield chunk;
    }
  }

  /** Decompresses the body. Fails if it is truncated or too slow. */
  async *#bytesOf(answer: IncomingMessage): AsyncIterable<Buffer> {
    const { silenceTimeoutMs } = this.#limits;
    const late = (): void => {
      answer.destroy(new PackageError('upstream_timeout', 'the index was silent for too long'));
    };
    let cancel = this.#clock.after(silenceTimeoutMs, late);
    const isPacked = answer.headers['content-encoding'] === 'gzip';
    const unpacked = isPacked ? answer.pipe(createGunzip()) : answer;
    if (isPacked) answer.once('error', (error) => unpacked.destroy(error));
    try {
      for await (const chunk of unpacked) {
        cancel();
        yield chunk as Buffer;
        cancel = this.#clock.after(silenceTimeoutMs, late);
      }
    } catch (error) {
      answer.destroy();
      if (error instanceof PackageError) throw error;
      throw new PackageError('upstream_unreachable', 'the index broke off its answer', { cause: error });
    } finally {
      cancel();
    }
  }

  async #follow(
    { url: text, index }: Pick<PageRequest, 'url' | 'index'>,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<{ answer: IncomingMessage; url: URL }> {
    let url = new URL(text);
    for (let redirects = 0; redirects <= this.#limits.redirectsMax; redirects += 1) {
      checkUrl(url, index);
      const answer = await this.#send(url, index, headers, signal);
      const { location } = answer.headers;
      const isRedirect = [301, 302, 303, 307, 308].includes(answer.statusCode ?? 0);
      if (!isRedirect || location === undefined) return { answer, url };
      answer.destroy();
      const next = URL.parse(location, url.href);
      if (next === null) throw new PackageError('upstream_invalid', 'a redirect leads nowhere');
      url = next;
    }
    throw new PackageError('upstream_invalid', 'the index redirects too often');
  }

  async #send(
    url: URL,
    index: Index,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
    isFresh = false,
  ): Promise<IncomingMessage> {
    const isOwn = isOfIndex(url, index);
    const isTrusted = isOwn || isFileHost(url, index);
    const literal = literalAddress(url);
    // Node does not resolve an address, so nothing else checks it.
    if (!isTrusted && literal !== undefined) publicOnly(url, [{ address: literal }], this.#isPublic);
    const { authorization } = index;
    const send = url.protocol === 'https:' ? requestHttps : requestHttp;
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const outgoing = send(url, {
      method: 'GET',
      headers: {
        ...headers,
        host: url.host,
        'user-agent': 'neurovisor-packages',
        ...(isOwn && authorization !== undefined ? { authorization } : {}),
      },
      ...(isTrusted ? {} : await this.#publicTarget(url, index)),
      agent: this.#connections.agentFor(url, index, isTrusted, isFresh),
      maxHeaderSize: this.#limits.headerBytesMax,
      insecureHTTPParser: false,
      signal,
    });
    const cancel = this.#clock.after(this.#limits.silenceTimeoutMs, () => {
      const late = new PackageError('upstream_timeout', 'the index does not answer');
      outgoing.destroy(late);
      // A request whose proxy tunnel is not open yet reports no error.
      reject(late);
    });
    outgoing.once('response', (answer) => {
      cancel();
      resolve(answer);
    });
    // Never removed: a destroyed request may report an error after its answer.
    outgoing.on('error', (error) => {
      cancel();
      // The index closed an idle connection during the write, so it has not seen the request.
      const isStale = outgoing.reusedSocket && ['ECONNRESET', 'EPIPE'].includes(errorCode(error) ?? '');
      if (isStale && !signal.aborted) resolve(this.#send(url, index, headers, signal, true));
      else reject(asPackageError(error, url, signal));
    });
    outgoing.end();
    const aborted = (): PackageError => asPackageError(new Error('aborted'), url, signal);
    try {
      return await orAborted(promise, signal, aborted);
    } finally {
      cancel();
    }
  }

  /**
   * Options of a request that reaches only public addresses. A proxy would resolve the name itself, and may reach
   * private addresses, so it gets the address that was checked here.
   * @throws PackageError `address_refused`
   */
  async #publicTarget(url: URL, index: Index): Promise<RequestOptions> {
    if (proxyFor(url, index) === undefined) return { lookup: this.#publicLookup(url) };
    if (url.protocol !== 'https:') throw refusedThroughProxy(url);
    const literal = literalAddress(url);
    if (literal !== undefined) return { host: literal, hostname: literal };
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    this.#publicLookup(url)(url.hostname, {}, (error, address) => {
      if (error instanceof PackageError) reject(error);
      else if (error !== null) reject(refusedThroughProxy(url, error));
      else resolve(String(address));
    });
    const address = await promise;
    return { host: address, hostname: address, servername: url.hostname };
  }

  /** Checks the addresses that the connection will use, so a name can't change between check and use. */
  #publicLookup(url: URL): LookupFunction {
    return (hostname, options, callback) => {
      this.#lookup(hostname, { ...options, all: true }, (error, found) => {
        if (error !== null) {
          callback(error, '');
          return;
        }
        try {
          const allowed = publicOnly(url, found, this.#isPublic);
          const [first] = allowed;
          if (options.all === true) callback(null, allowed);
          else callback(null, first?.address ?? '', first?.family);
        } catch (refusal) {
          callback(refusal as NodeJS.ErrnoException, '');
        }
      });
    };
  }

  #timeLimit(signal: AbortSignal, limitMs: number): Disposable & { readonly signal: AbortSignal } {
    const limit = new AbortController();
    const cancel = this.#clock.after(limitMs, () => {
      limit.abort(new PackageError('upstream_timeout', 'the index took too long'));
    });
    return { signal: AbortSignal.any([signal, limit.signal]), [Symbol.dispose]: cancel };
  }
}

function refusedThroughProxy({ host }: URL, cause?: unknown): PackageError {
  return new PackageError(
    'address_refused',
    `connect to ${host} through the host's proxy: only HTTPS, to an address that this host knows as public`,
    { cause, remedy: `name ${host} in NEUROVISOR_PACKAGE_HOSTS if files of packages may come from there` },
  );
}

function requireOk(answer: IncomingMessage): void {
  const { statusCode: status = 0 } = answer;
  if (status === 200) return;
  answer.destroy();
  const message = `the index answered with status ${status}`;
  throw new PackageError('upstream_status', message, { status });
}

function tooLarge(bytes: number): PackageError {
  return new PackageError('upstream_invalid', `the file is larger than ${bytes} bytes`);
}

function asPackageError(error: Error, url: URL, signal: AbortSignal): PackageError {
  if (error instanceof PackageError) return error;
  if (signal.aborted) {
    if (signal.reason instanceof PackageError) return signal.reason;
    return new PackageError('canceled', 'the request was canceled', { cause: signal.reason });
  }
  const code = errorCode(error) ?? error.message;
  return new PackageError('upstream_unreachable', `connect to ${url.host}: ${code}`, { cause: error });
}
