/** Pages of indexes: fetched once for all concurrent callers, kept parsed for a while, revalidated (io). */
import type { Clock } from '../../../base/clock.ts';
import { PackageError } from '../errors.ts';
import { CACHE_LIMITS } from '../limits.ts';
import type { RawPage } from '../protocol/artifact.ts';
import type { Upstream, Validators } from '../upstream/fetch.ts';
import type { Index } from '../upstream/index-set.ts';

export interface PageRequest<T> {
  readonly url: string;
  readonly index: Index;
  readonly accept: string;
  /** @throws PackageError `upstream_invalid` */
  parse(page: RawPage): T;
}

export interface CachedPage<T> {
  readonly value: T;
  readonly validators: Validators;
}

interface Entry extends CachedPage<unknown> {
  readonly bytes: number;
  freshUntilMs: number;
}

const WRONG_MAX = 1_000;

export class PageCache {
  readonly #upstream: Upstream;
  readonly #clock: Clock;
  /** In order of use. */
  readonly #entries = new Map<string, Entry>();
  readonly #flights = new Map<string, Promise<Entry>>();
  /** Unusable pages are remembered: otherwise a guest could make the index send a large page again and again. */
  readonly #wrong = new Map<string, { readonly error: PackageError; readonly untilMs: number }>();
  readonly #aborter = new AbortController();
  #bytes = 0;

  constructor(upstream: Upstream, clock: Clock) {
    this.#upstream = upstream;
    this.#clock = clock;
  }

  close(): void {
    this.#aborter.abort(new PackageError('closed', 'the package gateway is closed'));
  }

  /** @param request must always parse a URL the same way. @throws PackageError */
  async get<T>(request: PageRequest<T>): Promise<CachedPage<T>> {
    const { url } = request;
    const entry = this.#entries.get(url);
    if (entry !== undefined) {
      this.#entries.delete(url);
      this.#entries.set(url, entry);
      if (this.#clock.now() < entry.freshUntilMs) return entry as CachedPage<T>;
    }
    const wrong = this.#wrong.get(url);
    if (wrong !== undefined && this.#clock.now() < wrong.untilMs) throw wrong.error;
    const flight = this.#flights.get(url);
    if (flight !== undefined) return (await flight) as CachedPage<T>;
    const started = this.#fetch(request, entry)
      .catch((error: unknown) => {
        this.#noteWrong(url, error);
        throw error;
      })
      .finally(() => this.#flights.delete(url));
    this.#flights.set(url, started);
    return (await started) as CachedPage<T>;
  }

  async #fetch(request: PageRequest<unknown>, entry: Entry | undefined): Promise<Entry> {
    const { url, index, accept } = request;
    const answer = await this.#upstream.page({
      url,
      index,
      accept,
      validators: entry?.validators,
      signal: this.#aborter.signal,
    });
    const freshUntilMs = this.#clock.now() + CACHE_LIMITS.pageFreshMs;
    if (answer.kind === 'unchanged') {
      if (entry === undefined) throw new PackageError('upstream_invalid', 'status 304, unasked');
      entry.freshUntilMs = freshUntilMs;
      return entry;
    }
    const { page, validators } = answer;
    const made = { value: request.parse(page), validators, bytes: page.body.length, freshUntilMs };
    this.#keep(url, made);
    return made;
  }

  #noteWrong(url: string, error: unknown): void {
    if (!(error instanceof PackageError) || error.code !== 'upstream_invalid') return;
    const [oldest] = this.#wrong.keys();
    if (oldest !== undefined && this.#wrong.size >= WRONG_MAX) this.#wrong.delete(oldest);
    this.#wrong.delete(url);
    this.#wrong.set(url, { error, untilMs: this.#clock.now() + CACHE_LIMITS.pageFreshMs });
  }

  #keep(url: string, entry: Entry): void {
    this.#bytes += entry.bytes - (this.#entries.get(url)?.bytes ?? 0);
    this.#entries.delete(url);
    this.#entries.set(url, entry);
    for (const [oldest, { bytes }] of this.#entries) {
      if (this.#bytes <= CACHE_LIMITS.pageBytesMax || oldest === url) return;
      this.#entries.delete(oldest);
      this.#bytes -= bytes;
    }
  }
}
