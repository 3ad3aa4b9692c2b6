/** Requests to indexes (io). Each is built anew; only names and digests come from a guest. */
import type { Clock } from '../../../base/clock.ts';
import { decideAddress } from '../../outgoing/address.ts';
import type { Answer } from '../../outgoing/answer.ts';
import { OutgoingClient, type Resolve, type Route } from '../../outgoing/client.ts';
import { OutgoingError, type OutgoingErrorCode } from '../../outgoing/errors.ts';
import { PackageError, type PackageErrorCode } from '../errors.ts';
import { UPSTREAM_LIMITS } from '../limits.ts';
import type { RawPage } from '../protocol/artifact.ts';
import { checkUrl, FILE_HOST_REMEDY, isFileHost, isOfIndex } from './address.ts';
import type { Index } from './index-set.ts';

export type UpstreamLimits = Readonly<Record<keyof typeof UPSTREAM_LIMITS, number>>;

export interface UpstreamOptions {
  readonly clock: Clock;
  /** For tests. Default: as `decideAddress`. */
  readonly isPublic?: ((address: string) => boolean) | undefined;
  readonly limits?: Partial<UpstreamLimits>;
  /** For tests. Default: the host's resolver. */
  readonly resolve?: Resolve | undefined;
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
  readonly #isPublic: UpstreamOptions['isPublic'];
  readonly #client: OutgoingClient;
  readonly #limits: UpstreamLimits;
  #pagesBytes = 0;

  constructor({ clock, isPublic, limits = {}, resolve }: UpstreamOptions) {
    this.#isPublic = isPublic;
    this.#limits = { ...UPSTREAM_LIMITS, ...limits };
    const { silenceTimeoutMs: silenceMsMax, headerBytesMax: headBytesMax } = this.#limits;
    this.#client = new OutgoingClient({ clock, silenceMsMax, headBytesMax, resolve });
  }

  close(): void {
    this.#client.close();
  }

  /** @throws PackageError; `upstream_status` for a status other than 200 and 304 */
  async page(request: PageRequest): Promise<PageAnswer> {
    const { etag, lastModified } = request.validators ?? {};
    const headers = {
      'accept-encoding': 'gzip',
      ...(etag === undefined ? {} : { 'if-none-match': etag }),
      ...(lastModified === undefined ? {} : { 'if-modified-since': lastModified }),
    };
    const answer = await this.#send(request, headers, this.#limits.pageTimeoutMs);
    if (answer.status === 304) {
      answer.destroy();
      return { kind: 'unchanged' };
    }
    requireOk(answer);
    const body = await this.#whole(answer, request.signal);
    const page = { url: answer.url.href, contentType: answer.header('content-type') ?? '', body };
    const validators = { etag: answer.header('etag'), lastModified: answer.header('last-modified') };
    return { kind: 'page', page, validators };
  }

  async #whole(answer: Answer, signal: AbortSignal): Promise<Buffer> {
    const { pageBytesMax, pagesBytesMax } = this.#limits;
    const chunks: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const chunk of bytesOf(answer, pageBytesMax, signal)) {
        bytes += chunk.length;
        this.#pagesBytes += chunk.length;
        if (this.#pagesBytes > pagesBytesMax) {
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
    const { fileTimeoutMs, fileBytesMax } = this.#limits;
    const answer = await this.#send(request, { 'accept-encoding': 'identity' }, fileTimeoutMs);
    requireOk(answer);
    const length = answer.header('content-length');
    const sizeBytes = length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : null;
    const isPacked = answer.header('content-encoding') !== undefined;
    if (isPacked || (sizeBytes ?? 0) > fileBytesMax) {
      answer.destroy();
      const message = isPacked ? 'the index compressed a file' : `the file is larger than ${fileBytesMax} bytes`;
      throw new PackageError('upstream_invalid', message);
    }
    return {
      sizeBytes,
      lastModified: answer.header('last-modified'),
      contentType: answer.header('content-type'),
      body: bytesOf(answer, fileBytesMax, request.signal),
    };
  }

  async #send(
    { url, index, accept, signal }: Omit<PageRequest, 'validators'>,
    headers: Readonly<Record<string, string>>,
    wholeMsMax: number,
  ): Promise<Answer> {
    try {
      return await this.#client.send({
        url: new URL(url),
        routeOf: (target) => this.#routeTo(target, index),
        headers: { accept, ...headers, 'user-agent': 'neurovisor-packages' },
        redirectsMax: this.#limits.redirectsMax,
        wholeMsMax,
        signal,
      });
    } catch (error) {
      throw asPackageError(error, signal);
    }
  }

  /** @throws PackageError `address_refused` */
  #routeTo(url: URL, index: Index): Route {
    checkUrl(url, index);
    const { authorization, ca, proxies } = index;
    const isOwn = isOfIndex(url, index);
    if (!isOwn && !isFileHost(url, index)) {
      return {
        judge: (address) =>
          (this.#isPublic?.(address) ?? decideAddress(url, address, []).allowed)
            ? undefined
            : 'its address is not public',
        proxies,
      };
    }
    return { judge: null, ca, proxies, headers: isOwn && authorization !== undefined ? { authorization } : {} };
  }
}

async function* bytesOf(answer: Answer, bytesMax: number, signal: AbortSignal): AsyncIterable<Buffer> {
  try {
    yield* answer.bytes(bytesMax);
  } catch (error) {
    throw asPackageError(error, signal);
  }
}

function requireOk(answer: Answer): void {
  const { status } = answer;
  if (status === 200) return;
  answer.destroy();
  throw new PackageError('upstream_status', `the index answered with status ${status}`, { status });
}

const CODES: Readonly<Record<OutgoingErrorCode, PackageErrorCode>> = {
  address_refused: 'address_refused',
  unreachable: 'upstream_unreachable',
  timeout: 'upstream_timeout',
  invalid: 'upstream_invalid',
};

function asPackageError(error: unknown, signal: AbortSignal): PackageError {
  if (error instanceof PackageError) return error;
  if (signal.aborted) return new PackageError('canceled', 'the request was canceled', { cause: signal.reason });
  if (!(error instanceof OutgoingError)) throw error;
  const { code, message, cause } = error;
  const remedy = code === 'address_refused' ? { remedy: FILE_HOST_REMEDY } : {};
  return new PackageError(CODES[code], message, { cause, ...remedy });
}
