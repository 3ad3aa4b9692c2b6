/** The Debian archives of the host's apt, by the last part of their path; then the public ones. */
import { join } from 'node:path';
import type { Index, IndexSet } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { indexOf } from './index-url.ts';

const DIR = '/etc/apt';
const ARCHIVES = ['debian', 'debian-security'] as const;

export async function aptIndexes(files: HostFiles): Promise<IndexSet> {
  const uris = await configuredUris(files);
  return Object.fromEntries(
    ARCHIVES.map((archive) => [archive, archiveOf(archive, uris)] as const),
  );
}

function archiveOf(archive: string, uris: readonly string[]): Index {
  const found = uris.find((uri) => {
    const url = URL.parse(uri);
    return (
      url !== null &&
      ['http:', 'https:'].includes(url.protocol) &&
      url.pathname.replace(/\/+$/, '').endsWith(`/${archive}`)
    );
  });
  return indexOf(found ?? `http://deb.debian.org/${archive}`, `${archive} in ${DIR}`);
}

async function configuredUris({ read, list }: HostFiles): Promise<string[]> {
  const more = (await list(join(DIR, 'sources.list.d'))).toSorted();
  const names = ['sources.list', ...more.map((name) => join('sources.list.d', name))];
  const found: string[] = [];
  for (const name of names) {
    const text = await read(join(DIR, name));
    if (text === undefined) continue;
    const pattern = name.endsWith('.sources')
      ? /^URIs:[ \t]*(.+)$/gim
      : /^[ \t]*deb[ \t]+(?:\[[^\]]*\][ \t]+)?(\S+)/gm;
    for (const [, uris = ''] of text.matchAll(pattern)) found.push(...uris.trim().split(/\s+/));
  }
  return found;
}
