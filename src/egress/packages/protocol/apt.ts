/**
 * Archives of Debian and Ubuntu. Pure.
 *
 *     /apt/debian/dists/…   /apt/debian/pool/…   likewise below debian-security, ubuntu and ubuntu-ports
 *     http://deb.debian.org/debian/…             the same, as apt asks a proxy
 *
 * Nothing is rewritten: apt checks everything by the signature of InRelease.
 */
import { APT_ARCHIVES, type AptArchive } from '../apt-archives.ts';
import type { RelayRoute } from './artifact.ts';

/** Archives of the public hosts that the guest's sources name. */
const HOSTS: Readonly<Record<string, readonly AptArchive[]>> = {
  'deb.debian.org': ['debian', 'debian-security'],
  'security.debian.org': ['debian-security'],
  'archive.ubuntu.com': ['ubuntu'],
  'security.ubuntu.com': ['ubuntu'],
  'ports.ubuntu.com': ['ubuntu-ports'],
};
const SEGMENT = /^[A-Za-z0-9][A-Za-z0-9+~:._-]{0,254}$/;
const PACKAGE = /^([a-z0-9][a-z0-9+.-]+)_([A-Za-z0-9.+~:-]+)_[a-z0-9-]+\.deb$/;
const BY_HASH = /(?:^|\/)by-hash\/SHA256\/([0-9a-f]{64})$/;

/** @param host of a request in absolute form; `null` if `segments` are below `/apt/` */
export function aptRoute(segments: readonly string[], host: string | null): RelayRoute | undefined {
  const served = host === null ? APT_ARCHIVES : Object.hasOwn(HOSTS, host) ? HOSTS[host] : [];
  const [first = '', ...below] = segments;
  const index = served?.find((one) => one === first);
  if (index === undefined) return undefined;
  const [area, ...rest] = below;
  if (rest.length === 0 || !below.every((one) => SEGMENT.test(one))) return undefined;
  const path = below.join('/');
  const route = { kind: 'relay', ecosystem: 'apt', index, path, infoPath: null } as const;
  const contentType = 'application/octet-stream';
  if (area === 'pool') {
    const [, name, version = ''] = PACKAGE.exec(rest.at(-1) ?? '') ?? [];
    if (name === undefined) return undefined;
    return { ...route, name, version, contentType, isImmutable: true, digest: null };
  }
  if (area !== 'dists') return undefined;
  const hex = BY_HASH.exec(path)?.[1];
  const digest = hex === undefined ? null : ({ algorithm: 'sha256', hex } as const);
  // The names of lists are no packages, so the policy has no rules for them.
  return { ...route, name: '', version: '', contentType, isImmutable: digest !== null, digest };
}
