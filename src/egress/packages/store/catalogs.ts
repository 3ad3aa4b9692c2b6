/** Fetches pages of packages from the host's indexes (io). `page-reader.ts` parses them. */
import { PackageError } from '../errors.ts';
import type { ArtifactRoute, CatalogRoute, RawPage, Route } from '../protocol/artifact.ts';
import { cargoPage, parseCargoConfig } from '../protocol/cargo.ts';
import { DATABASE } from '../protocol/go.ts';
import { NPM_ACCEPT, npmPage } from '../protocol/npm.ts';
import { PYPI_ACCEPT, pypiPage } from '../protocol/pypi.ts';
import type { Configured, Index, IndexSet } from '../upstream/index-set.ts';
import type { CachedPage, PageCache } from './page-cache.ts';
import type { PageToRead } from './page-reading.ts';

/** @throws PackageError `index_invalid` */
function usable(configured: Configured | undefined): Index | undefined {
  if (configured instanceof PackageError) throw configured;
  return configured;
}

export class Catalogs {
  readonly #pages: PageCache;
  readonly #read: () => Promise<IndexSet>;
  #indexes: Promise<IndexSet> | undefined;
  #database: Promise<Index> | undefined;
  #lastId = 0;

  /** @param indexes called once, when the first page is requested */
  constructor(pages: PageCache, indexes: () => Promise<IndexSet>) {
    this.#pages = pages;
    this.#read = indexes;
  }

  /**
   * The host's index for a route, if it has one.
   * @param route.name name of a package; an npm scope may have its own registry
   * @throws PackageError `index_invalid`
   */
  async index({ index: name, name: of }: Pick<Route, 'index' | 'name'>): Promise<Index | undefined> {
    this.#indexes ??= this.#read();
    try {
      const indexes = await this.#indexes;
      if (name === 'sumdb') return await this.#sumdb(usable(indexes.go), usable(indexes.sumdb));
      const scope = name === 'npm' ? (/^(@[^/]+)\//.exec(of)?.[1] ?? '') : '';
      const { npmScopes = {} } = indexes;
      return usable(Object.hasOwn(npmScopes, scope) ? npmScopes[scope] : indexes[name]);
    } catch (error) {
      // The owner may correct the file.
      this.#indexes = undefined;
      throw error;
    }
  }

  async #sumdb(proxy: Index | undefined, direct: Index | undefined): Promise<Index | undefined> {
    if (proxy === undefined || direct === undefined) return direct;
    this.#database ??= this.#findDatabase(proxy, direct);
    return await this.#database;
  }

  /** A module proxy may serve the database too; a host with a mirror often reaches nothing else. */
  async #findDatabase(proxy: Index, direct: Index): Promise<Index> {
    const path = `sumdb/${DATABASE}/`;
    try {
      await this.text(proxy, `${path}supported`);
      const { except: _of, ...reached } = proxy;
      const { except } = direct;
      const own = except === undefined ? {} : { except };
      return { ...reached, ...own, baseUrl: `${proxy.baseUrl}${path}` };
    } catch (error) {
      if (!(error instanceof PackageError)) throw error;
      // A proxy without the database reports that; a proxy that fails may have it the next time.
      if (error.status === undefined || error.status >= 500) this.#database = undefined;
      return direct;
    }
  }

  /** The unparsed page of a name. @throws PackageError */
  async page({ index: of, name }: CatalogRoute | ArtifactRoute, index: Index): Promise<PageToRead> {
    switch (of) {
      case 'pip':
        return await this.#toRead(index, pypiPage(name), PYPI_ACCEPT, { index: of, name, dl: '' });
      case 'npm':
        return await this.#toRead(index, npmPage(name), NPM_ACCEPT, { index: of, name, dl: '' });
      case 'cargo': {
        const { value: dl } = await this.#page(index, 'config.json', '*/*', parseCargoConfig);
        return await this.#toRead(index, cargoPage(name), '*/*', { index: of, name, dl });
      }
      default:
        throw new PackageError('upstream_invalid', `the index ${of} has no pages`);
    }
  }

  /** An unchanged page. @throws PackageError */
  async text(index: Index, path: string): Promise<CachedPage<Buffer>> {
    return await this.#page(index, path, '*/*', ({ body }) => body);
  }

  async #toRead(
    index: Index,
    path: string,
    accept: string,
    more: Omit<PageToRead, 'id' | 'page'>,
  ): Promise<PageToRead> {
    const { value } = await this.#page(index, path, accept, (page) => {
      this.#lastId += 1;
      return { id: this.#lastId, page, ...more };
    });
    return value;
  }

  async #page<T>(index: Index, path: string, accept: string, parse: (page: RawPage) => T): Promise<CachedPage<T>> {
    return await this.#pages.get({ url: `${index.baseUrl}${path}`, index, accept, parse });
  }
}
