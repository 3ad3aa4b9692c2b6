/**
 * Reads the Debian and Ubuntu archives of the host's apt, by the last part of their path; the public ones otherwise.
 */
import { join } from 'node:path';
import { APT_ARCHIVES, type AptArchive } from '../apt-archives.ts';
import { PackageError } from '../errors.ts';
import type { Configured, Index, IndexSet } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { indexOf } from './index-url.ts';
import { type Login, parseNetrc, withLogin } from './netrc.ts';
import { type ClientProxies, withProxies } from './proxies.ts';

const DIR = '/etc/apt';
const PUBLIC: Readonly<Record<AptArchive, string>> = {
  debian: 'http://deb.debian.org/debian',
  'debian-security': 'http://deb.debian.org/debian-security',
  ubuntu: 'http://archive.ubuntu.com/ubuntu',
  'ubuntu-ports': 'http://ports.ubuntu.com/ubuntu-ports',
};

export async function aptIndexes(files: HostFiles): Promise<IndexSet> {
  const uris = await configuredUris(files);
  const logins = await configuredLogins(files);
  const proxies = await configuredProxies(files);
  const open = (archive: AptArchive): Configured => {
    try {
      return withProxies(withAuth(archiveOf(archive, uris), logins), files, 'apt', proxies);
    } catch (error) {
      if (error instanceof PackageError) return error;
      throw error;
    }
  };
  return Object.fromEntries(APT_ARCHIVES.map((archive) => [archive, open(archive)] as const));
}

function archiveOf(archive: AptArchive, uris: readonly string[]): Index {
  const found = uris.find((uri) => {
    const url = URL.parse(uri);
    return (
      url !== null &&
      ['http:', 'https:'].includes(url.protocol) &&
      url.pathname.replace(/\/+$/, '').endsWith(`/${archive}`)
    );
  });
  return indexOf(found ?? PUBLIC[archive], `${archive} in ${DIR}`);
}

/** apt_auth.conf(5): a machine has a scheme only if it is not HTTPS; its path covers those below it. */
function withAuth(index: Index, logins: readonly Login[]): Index {
  const base = new URL(index.baseUrl);
  return withLogin(index, logins, ({ machine }) => {
    const url = URL.parse(machine.includes('://') ? machine : `https://${machine}`);
    return (
      url !== null &&
      url.protocol === base.protocol &&
      url.hostname === base.hostname &&
      (url.port === '' || url.port === base.port) &&
      base.pathname.startsWith(url.pathname)
    );
  });
}

async function configuredUris(files: HostFiles): Promise<string[]> {
  const found: string[] = [];
  for (const { name, text } of await filesOf(files, 'sources.list', 'sources.list.d')) {
    const pattern = name.endsWith('.sources') ? /^URIs:[ \t]*(.+)$/gim : /^[ \t]*deb[ \t]+(?:\[[^\]]*\][ \t]+)?(\S+)/gm;
    for (const [, uris = ''] of text.matchAll(pattern)) found.push(...uris.trim().split(/\s+/));
  }
  return found;
}

async function configuredLogins(files: HostFiles): Promise<readonly Login[]> {
  return (await filesOf(files, 'auth.conf', 'auth.conf.d')).flatMap(({ text }) => parseNetrc(text));
}

/** Reads `Acquire::http::Proxy "URL";` and the same with `https`. The last line wins. */
async function configuredProxies(files: HostFiles): Promise<ClientProxies> {
  const proxies: { http?: string; https?: string } = {};
  for (const { text } of await filesOf(files, 'apt.conf', 'apt.conf.d')) {
    for (const [, scheme, url = ''] of text.matchAll(/^[ \t]*Acquire::(https?)::Proxy[ \t]+"([^"\n]*)"/gim)) {
      const proxy = url === 'DIRECT' ? '' : url;
      proxies[scheme?.toLowerCase() === 'https' ? 'https' : 'http'] = proxy;
    }
  }
  // apt.conf(5): without a setting for HTTPS, that for HTTP applies.
  return { ...proxies, https: proxies.https ?? proxies.http };
}

/** The single file, then those of the directory by name. */
async function filesOf(
  { read, list }: HostFiles,
  file: string,
  dir: string,
): Promise<{ readonly name: string; readonly text: string }[]> {
  const more = (await list(join(DIR, dir))).toSorted();
  const found: { name: string; text: string }[] = [];
  for (const name of [file, ...more.map((one) => join(dir, one))]) {
    const text = await read(join(DIR, name));
    if (text !== undefined) found.push({ name, text });
  }
  return found;
}
