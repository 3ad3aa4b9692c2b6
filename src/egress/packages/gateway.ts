/**
 * The package gateway: a sandbox without a network installs packages from the indexes that its host uses.
 *
 *      guest                                  host
 *     ┌──────────────────────────┐           ┌────────────────────────────────────────────────────────┐
 *     │ pip, npm, … ► 127.0.0.1: │  vsock    │ <channel>_1026 ─► port ─► exchange ─► pages ─► index     │
 *     │       11435  (forwarder) │══ 1026 ══►│   (identity)      route   policy  └─► files ─► (store)   │
 *     └──────────────────────────┘           └────────────────────────────────────────────────────────┘
 *
 * A *port* is one unix socket, and the socket identifies the caller. A request becomes a *route*: an ecosystem, a name,
 * a file. Nothing else of it reaches an index: the request there is built anew from these parts, whose grammar is
 * checked. Pages are parsed and written anew, with links that lead back here; files are checked against the digest of
 * their page as they pass. Credentials and names of the host's indexes stay on the host.
 *
 * Before you change something here:
 * - A guest can encode data in the names it asks for. `name-budget.ts` bounds that, and `docs/packages.md` says so.
 * - An index or its pages may be hostile, too: `upstream/address.ts` decides where links and redirects may lead,
 *   `../outgoing` which addresses are connected to.
 * - An answer that can't be completed ends with a destroyed socket, never with a clean end.
 *
 * Pure: route, request-path, protocol/, policy, name-budget, range, refusal, limits, upstream/address, store/page-reading. Input and output: listener, exchange, store/, upstream/fetch, host/.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { LoopTime } from '../../base/fairness/loop-time.ts';
import type { Log } from '../../base/log.ts';
import type { Metric } from '../../base/metrics.ts';
import { NO_PACKAGES, type PackagePolicy } from '../../base/request/package-policy.ts';
import { PackageError } from './errors.ts';
import { FetchLog } from './fetch-log.ts';
import type { PackageFetch } from './fetch-record.ts';
import { CACHE_LIMITS, PORT_LIMITS } from './limits.ts';
import { NameBudget } from './name-budget.ts';
import { PackageMetrics } from './package-metrics.ts';
import { PackageRules } from './policy.ts';
import { Listener } from './port/listener.ts';
import { Catalogs } from './store/catalogs.ts';
import { FileStore, type FreeBytes } from './store/file-store.ts';
import { PackageFiles } from './store/package-files.ts';
import { PageCache } from './store/page-cache.ts';
import { PageReader } from './store/page-reader.ts';
import { Upstream, type UpstreamOptions } from './upstream/fetch.ts';
import { type IndexSet, loginAt } from './upstream/index-set.ts';

export type { PackageFetch } from './fetch-record.ts';
export type { Index, IndexSet } from './upstream/index-set.ts';

export interface PackagesOptions {
  /** Called when the first sandbox fetches something. */
  readonly indexes: () => Promise<IndexSet>;
  readonly cacheDir: string;
  readonly isPublic?: UpstreamOptions['isPublic'];
  readonly clock: Clock;
  readonly log: Log;
  readonly fileBytesMax?: number;
  readonly upstreamLimits?: UpstreamOptions['limits'];
  readonly resolve?: UpstreamOptions['resolve'];
  /** For tests. */
  readonly freeBytes?: FreeBytes;
}

export interface PackageCaller {
  readonly sandboxId: string;
  /** Created by `attach`, removed by `close`. Its directory must be private to the host. */
  readonly socketPath: string;
  /** If `null`, every request is refused, with the remedy. */
  readonly policy: PackagePolicy | null;
  readonly onFetch?: (fetch: PackageFetch) => void;
  /** Whether this host's login at an index, by `HOST` or `HOST:PORT`, serves the caller. Default: each does. */
  readonly mayLogIn?: (host: string) => boolean;
}

export interface PackagePort {
  /** Applies to requests that arrive from now on. */
  setPolicy(policy: PackagePolicy | null): void;
  /** Idempotent. */
  close(): Promise<void>;
}

export interface PackageGateway {
  /** @throws PackageError `listen_failed`, `closed` */
  attach(caller: PackageCaller): Promise<PackagePort>;
  metrics(): readonly Metric[];
  /** Shows whether the host's index is the same as before, without its name. */
  indexDigest(name: Exclude<keyof IndexSet, 'npmScopes'>): Promise<string>;
  /** `HOST` or `HOST:PORT` of the index, if this host logs in there; `null`: it does not. */
  loginOf(name: Exclude<keyof IndexSet, 'npmScopes'>): Promise<string | null>;
  /** Closes all ports. Idempotent. */
  close(): Promise<void>;
}

const PAGE_TIME = { size: PORT_LIMITS.pageTimeMs, refillPerSecond: PORT_LIMITS.pageTimePerSecondMs };

export function createPackageGateway(options: PackagesOptions): PackageGateway {
  const { clock, log, isPublic, upstreamLimits = {}, resolve } = options;
  const upstream = new Upstream({ clock, isPublic, limits: upstreamLimits, resolve });
  const bytesMax = options.fileBytesMax ?? CACHE_LIMITS.fileBytesMax;
  const store = new FileStore(storeDir(options.cacheDir), bytesMax, options.freeBytes);
  const pages = new PageCache(upstream, clock);
  const catalogs = new Catalogs(pages, options.indexes);
  const reader = new PageReader(clock, log);
  const files = new PackageFiles({ upstream, store, clock });
  const metrics = new PackageMetrics();
  const ports = new Set<PackagePort>();
  let closing: Promise<void> | undefined;
  return {
    async attach({ sandboxId, socketPath, policy, onFetch, mayLogIn = () => true }) {
      if (closing !== undefined) throw new PackageError('closed', 'the package gateway is closed');
      const events = new FetchLog();
      const listener = new Listener({
        sandboxId,
        mayLogIn,
        rules: new PackageRules(policy ?? NO_PACKAGES),
        budget: new NameBudget(clock),
        catalogs,
        reader,
        files,
        pageTime: new LoopTime(PAGE_TIME, clock),
        clock,
        log,
        onFetch: (fetch) => {
          metrics.count(fetch);
          if (events.isNew(fetch)) onFetch?.(fetch);
        },
      });
      await listener.listen(socketPath);
      if (closing !== undefined) {
        await listener.close();
        throw new PackageError('closed', 'the package gateway is closed');
      }
      let closed: Promise<void> | undefined;
      const port: PackagePort = {
        setPolicy: (changed) => listener.setRules(new PackageRules(changed ?? NO_PACKAGES)),
        close() {
          ports.delete(port);
          closed ??= listener.close();
          return closed;
        },
      };
      ports.add(port);
      return port;
    },
    metrics: () => metrics.list(),
    async indexDigest(index) {
      try {
        const found = await catalogs.index({ index, name: '' });
        return createHash('sha256')
          .update(found?.baseUrl ?? '')
          .digest('hex');
      } catch (error) {
        if (!(error instanceof PackageError)) throw error;
        // The installation reports why the index can't be used.
        return error.code;
      }
    },
    async loginOf(index) {
      try {
        const found = await catalogs.index({ index, name: '' });
        return found === undefined ? null : loginAt(found);
      } catch (error) {
        if (!(error instanceof PackageError)) throw error;
        // Nothing can be fetched, and the attempt reports why.
        return null;
      }
    },
    close() {
      pages.close();
      const all = [files.close(), reader.close(), ...[...ports].map((port) => port.close())];
      closing ??= Promise.all(all).then(() => upstream.close());
      return closing;
    },
  };
}

const storeDir = (cacheDir: string): string => join(cacheDir, 'packages');

/** Removes the kept files of packages, which are fetched again when they are needed. */
export async function clearPackages(cacheDir: string): Promise<void> {
  await new FileStore(storeDir(cacheDir), 0).clear();
}
