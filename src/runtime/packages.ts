/** Opens the package gateway on this host's own indexes. */
import { networkInterfaces } from 'node:os';
import { systemClock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import type { Home } from '../home.ts';
import { readAddress } from '../net/addresses/addresses.ts';
import { isMetadata, reservedRangeOf } from '../net/addresses/metadata.ts';
import { createPackageGateway, type IndexSet, type PackageGateway } from '../packages/gateway.ts';
import { hostFiles } from '../packages/host/host-files.ts';
import { readIndexes } from '../packages/host/indexes.ts';

export interface PackagesSettings {
  readonly home: Home;
  readonly log: Log;
  /** `HOST` or `HOST:PORT` that files of packages may come from. */
  readonly fileHosts: readonly string[];
  /** Default: read from the environment and files of the host's package clients. */
  readonly indexes?: (() => Promise<IndexSet>) | undefined;
}

export function openPackages({ home, log, fileHosts, indexes }: PackagesSettings): PackageGateway {
  return createPackageGateway({
    indexes: indexes ?? (() => readIndexes(hostFiles(process.env), fileHosts)),
    cacheDir: home.cacheDir,
    isPublic: isPublicAddress,
    clock: systemClock,
    log,
  });
}

/** Of the public internet, no metadata service, and not this host's own. */
export function isPublicAddress(text: string): boolean {
  const address = readAddress(text);
  if (address === undefined || reservedRangeOf(address) !== undefined) return false;
  if (isMetadata(address)) return false;
  const own = Object.values(networkInterfaces()).flatMap((all = []) => all);
  return !own.some((one) => one.address === text);
}
