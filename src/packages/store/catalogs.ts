/** Pages of indexes: fetched once for all who wait, kept for a while, revalidated (io). */
import type { Clock } from '../../base/clock.ts';
import type { Ecosystem } from '../../base/package-policy.ts';
import { PackageError } from '../errors.ts';
import { CACHE_LIMITS } from '../limits.ts';
import type { Catalog, RawPage } from '../protocol/artifact.ts';
import { PYPI_ACCEPT, parsePypiPage, pypiPage } from '../protocol/pypi.ts';
import type { Upstream, Validators } from '../upstream/fetch.ts';
import type { Index, IndexSet } from '../upstream/index-set.ts';

/** How pages of one ecosystem are asked for and read. */
interface CatalogKind {
  readonly accept: string;
  /** Below the base of the index. */
  path(name: string): string;
  parse(name: string, page: RawPage): Catalog;
}

const KINDS: Readonly<Partial<Record<Ecosystem, CatalogKind>>> = {
  pip: { accept: PYPI_ACCEPT, path: pypiPage, parse: parsePypiPage },
};

interface Entry {
  readonly catalog: Catalog;
  readonly validators: Validators;
  readonly bytes: number;
  freshUntilMs: number;
}

export interface CatalogOptions {
  readonly upstream: Upstream;
  /** Read once, when the first page is asked for. */
  readonly indexes: () => Promise<IndexSet>;
  readonly clock: Clock;
}

export class Catalogs {
  readonly #options: CatalogOptions;
  /** In order of use. */
  readonly #entries = new Map<string, Entry>();
  readonly #flights = new Map<string, Promise<Catalog>>();
  readonly #aborter = new AbortController();
  #bytes = 0;
  #indexes: Promise<IndexSet> | undefined;

  constructor(options: CatalogOptions) {
    this.#options = options;
  }

  close(): void {
    this.#aborter.abort(new PackageError('closed', 'the package gateway is closed'));
  }

  /** The host's index, if it has one. @throws PackageError `index_invalid` */
  async index(ecosystem: Ecosystem): Promise<Index | undefined> {
    this.#indexes ??= this.#options.indexes();
    const { pip } = await this.#indexes;
    return ecosystem === 'pip' ? pip : undefined;
  }

  /** @throws PackageError */
  get(ecosystem: Ecosystem, name: string, index: Index): Promise<Catalog> {
    const key = `${ecosystem}:${name}`;
    const entry = this.#entries.get(key);
    if (entry !== undefined) {
      this.#entries.delete(key);
      this.#entries.set(key, entry);
      if (this.#options.clock.now() < entry.freshUntilMs) return Promise.resolve(entry.catalog);
    }
    const flight = this.#flights.get(key);
    if (flight !== undefined) return flight;
    const started = this.#fetch(ecosystem, name, index, entry).finally(() =>
      this.#flights.delete(key),
    );
    this.#flights.set(key, started);
    return started;
  }

  async #fetch(
    ecosystem: Ecosystem,
    name: string,
    index: Index,
    entry: Entry | undefined,
  ): Promise<Catalog> {
    const { upstream, clock } = this.#options;
    const kind = KINDS[ecosystem];
    if (kind === undefined) throw new PackageError('upstream_invalid', 'there are no pages');
    const answer = await upstream.page({
      url: new URL(kind.path(name), index.baseUrl).href,
      index,
      accept: kind.accept,
      validators: entry?.validators,
      signal: this.#aborter.signal,
    });
    const freshUntilMs = clock.now() + CACHE_LIMITS.pageFreshMs;
    if (answer.kind === 'unchanged') {
      if (entry === undefined) throw new PackageError('upstream_invalid', 'status 304, unasked');
      entry.freshUntilMs = freshUntilMs;
      return entry.catalog;
    }
    const { page, validators } = answer;
    const catalog = kind.parse(name, page);
    const bytes = page.body.length;
    this.#keep(`${ecosystem}:${name}`, { catalog, validators, bytes, freshUntilMs });
    return catalog;
  }

  #keep(key: string, entry: Entry): void {
    this.#bytes += entry.bytes - (this.#entries.get(key)?.bytes ?? 0);
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    for (const [oldest, { bytes }] of this.#entries) {
      if (this.#bytes <= CACHE_LIMITS.pageBytesMax || oldest === key) return;
      this.#entries.delete(oldest);
      this.#bytes -= bytes;
    }
  }
}
