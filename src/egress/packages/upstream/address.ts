/** Decides which URLs an answer of an index may lead to. Pure. */
import { PackageError } from '../errors.ts';
import type { Index } from './index-set.ts';

export const FILE_HOST_REMEDY = 'name the host in NEUROVISOR_PACKAGE_HOSTS if files of packages may come from there';

/**
 * The host's owner chose the index, whatever its address. A URL from a page or a redirect must be public, have no
 * password, and use HTTPS unless the index itself does not.
 * @throws PackageError `address_refused`
 */
export function checkUrl(url: URL, index: Index): void {
  if (isOfIndex(url, index)) return;
  const isPlain = url.protocol === 'http:' && index.baseUrl.startsWith('http:');
  if (url.protocol !== 'https:' && !isPlain) throw refusedAddress(url, 'it is not HTTPS');
  if (url.username !== '' || url.password !== '') throw refusedAddress(url, 'it has a password');
  const port = url.port === '' || Number(url.port) >= 1024 || ['80', '443'].includes(url.port);
  if (!port) throw refusedAddress(url, 'its port is not one of the web');
}

/**
 * True for a host that the owner named, or that belongs to a public index. Only by HTTPS: an internal service has no
 * certificate for the name, so a private address does no harm, and networks with a mirror often answer for public
 * names.
 */
export function isFileHost(url: URL, { fileHosts = [] }: Index): boolean {
  return url.protocol === 'https:' && fileHosts.some((one) => [url.host, url.hostname].includes(one));
}

export function isOfIndex(url: URL, index: Index): boolean {
  const { protocol, origin } = new URL(index.baseUrl);
  // Compares the protocol too: a `blob:` URL has the origin of its inner URL.
  return url.protocol === protocol && url.origin === origin;
}

function refusedAddress({ protocol, host }: URL, why: string): PackageError {
  return new PackageError('address_refused', `connect to ${protocol}//${host}: ${why}`, { remedy: FILE_HOST_REMEDY });
}
