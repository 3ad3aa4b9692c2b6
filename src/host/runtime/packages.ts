/** Opens the package gateway on this host's own indexes. */
import { systemClock } from '../../base/clock.ts';
import type { Home } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import { createPackageGateway, type IndexSet, type PackageGateway } from '../../egress/packages/gateway.ts';
import { hostFiles } from '../../egress/packages/host/host-files.ts';
import { readIndexes } from '../../egress/packages/host/indexes.ts';

export interface PackagesSettings {
  readonly home: Home;
  readonly log: Log;
  /** `HOST` or `HOST:PORT` that package files may come from. */
  readonly fileHosts: readonly string[];
  /** Default: read from the environment and files of the host's package clients. */
  readonly indexes?: (() => Promise<IndexSet>) | undefined;
}

export function openPackages({ home, log, fileHosts, indexes }: PackagesSettings): PackageGateway {
  return createPackageGateway({
    indexes: indexes ?? (() => readIndexes(hostFiles(process.env), fileHosts)),
    cacheDir: home.cacheDir,
    clock: systemClock,
    log,
  });
}
