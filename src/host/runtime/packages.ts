/** Opens the package gateway on this host's own indexes. */
import { networkInterfaces } from 'node:os';
import { systemClock } from '../../base/clock.ts';
import type { Home } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import { facesOf, type IpAddress, readAddress } from '../../egress/net/addresses/addresses.ts';
import { isMetadata, reservedRangeOf } from '../../egress/net/addresses/metadata.ts';
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
    isPublic: (address) => isPublicAddress(address),
    clock: systemClock,
    log,
  });
}

/**
 * True for public internet addresses, without metadata services and this host's own addresses, also in an IPv6 form.
 * @param own addresses of this host
 */
export function isPublicAddress(text: string, own = ownAddresses()): boolean {
  const address = readAddress(text);
  if (address === undefined || reservedRangeOf(address) !== undefined) return false;
  if (isMetadata(address)) return false;
  const mine = own.map((one) => readAddress(one)).filter((one) => one !== undefined);
  const isSame = (one: IpAddress, other: IpAddress): boolean =>
    one.family === other.family && one.value === other.value;
  return !facesOf(address).some((face) => mine.some((one) => isSame(face, one)));
}

function ownAddresses(): readonly string[] {
  return Object.values(networkInterfaces()).flatMap((all = []) => all.map(({ address }) => address));
}
