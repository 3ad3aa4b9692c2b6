/** Mirrors for the guest's Debian: the host's own mirrors and proxy, or mmdebstrap's default. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ignore } from '../../../base/ignore.ts';
import { runTool } from '../tool.ts';
import { type AptSource, guestMirrorLines, parseDeb822, parseOneLine, parseOsRelease } from './apt-sources.ts';
import { DEBIAN_KEYRING, GUEST_CODENAME } from './recipe.ts';

export interface GuestMirrors {
  /** A sources list for mmdebstrap; undefined if the host is not Debian, so that mmdebstrap uses its default mirror. */
  readonly listPath: string | undefined;
  /** Options of the host's apt that are needed to reach a mirror. */
  readonly aptOptions: readonly string[];
}

const APT_DIR = '/etc/apt';
/** Options of the host's apt that apply to the guest's packages: how to reach mirrors, and old indexes of snapshots. */
const APT_KEYS = ['Acquire::http::Proxy', 'Acquire::https::Proxy', 'Acquire::Check-Valid-Until'];

export async function guestMirrors(scratchDir: string): Promise<GuestMirrors> {
  const aptOptions = await hostOptions();
  const release = parseOsRelease(await readFile('/etc/os-release', 'utf8'));
  const codename = release.get('VERSION_CODENAME');
  if (release.get('ID') !== 'debian' || codename === undefined) {
    return { listPath: undefined, aptOptions };
  }
  const lines = guestMirrorLines(await hostSources(), codename, GUEST_CODENAME, DEBIAN_KEYRING);
  if (lines.length === 0) return { listPath: undefined, aptOptions };
  const listPath = join(scratchDir, 'guest.list');
  await writeFile(listPath, `${lines.join('\n')}\n`);
  return { listPath, aptOptions };
}

/** Addresses of the host's mirrors of Debian itself; [] if it has none. */
export async function debianMirrors(): Promise<readonly string[]> {
  const release = parseOsRelease(await readFile('/etc/os-release', 'utf8'));
  const codename = release.get('VERSION_CODENAME');
  if (release.get('ID') !== 'debian' || codename === undefined) return [];
  const found = (await hostSources()).filter(({ suite, signedBy, components }) => {
    const isDebian = signedBy === undefined || signedBy.includes('debian-archive');
    return suite === codename && isDebian && components.includes('main');
  });
  return [...new Set(found.map(({ uri }) => uri))];
}

async function hostSources(): Promise<AptSource[]> {
  const partsDir = join(APT_DIR, 'sources.list.d');
  const names = await readOr(() => readdir(partsDir), []);
  const sources = parseOneLine(await readOr(() => readFile(join(APT_DIR, 'sources.list'), 'utf8'), ''));
  for (const name of names.sort()) {
    const parse = name.endsWith('.sources') ? parseDeb822 : name.endsWith('.list') ? parseOneLine : undefined;
    if (parse === undefined) continue;
    sources.push(...parse(await readOr(() => readFile(join(partsDir, name), 'utf8'), '')));
  }
  return sources;
}

async function hostOptions(): Promise<string[]> {
  const options: string[] = [];
  for (const key of APT_KEYS) {
    const dump = await readOr(() => runTool('apt-config', ['dump', key]), '');
    const value = /"([^"]+)"/.exec(dump)?.[1];
    if (value !== undefined) options.push(`${key} "${value}"`);
  }
  return options;
}

async function readOr<T>(read: () => Promise<T>, otherwise: T): Promise<T> {
  try {
    return await read();
  } catch (error) {
    ignore(error, 'an unreadable part of the host’s apt configuration');
    return otherwise;
  }
}
