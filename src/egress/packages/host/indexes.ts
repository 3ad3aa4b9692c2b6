/** Reads the indexes that this host's own package clients use. An invalid setting affects only its own kind. */

import { APT_ARCHIVES } from '../apt-archives.ts';
import { PackageError } from '../errors.ts';
import type { Configured, IndexSet } from '../upstream/index-set.ts';
import { aptIndexes } from './apt.ts';
import { cargoIndex } from './cargo.ts';
import { goIndexes } from './go.ts';
import type { HostFiles } from './host-files.ts';
import { npmIndexes } from './npm.ts';
import { pipIndex } from './pip.ts';

/** @param fileHosts set by the owner: `HOST` or `HOST:PORT` that files may come from */
export async function readIndexes(files: HostFiles, fileHosts: readonly string[]): Promise<IndexSet> {
  const found: IndexSet = Object.assign(
    {},
    ...(await Promise.all([
      orInvalid(['pip'], 'pip', async () => ({ pip: await pipIndex(files) })),
      orInvalid(['npm'], 'npm', () => npmIndexes(files)),
      orInvalid(['cargo'], 'cargo', async () => {
        const cargo = await cargoIndex(files);
        return cargo === undefined ? {} : { cargo };
      }),
      orInvalid(['go', 'sumdb'], 'Go', () => goIndexes(files)),
      orInvalid(APT_ARCHIVES, 'apt', () => aptIndexes(files)),
    ])),
  );
  const withHosts = (index: Configured): Configured =>
    index instanceof PackageError ? index : { ...index, fileHosts: [...(index.fileHosts ?? []), ...fileHosts] };
  const { npmScopes = {}, ...named } = found;
  return { ...mapped(named, withHosts), npmScopes: mapped(npmScopes, withHosts) };
}

async function orInvalid(
  names: readonly (keyof IndexSet)[],
  client: string,
  read: () => Promise<IndexSet>,
): Promise<IndexSet> {
  try {
    return await read();
  } catch (cause) {
    const error =
      cause instanceof PackageError
        ? cause
        : new PackageError('index_invalid', `the host's configuration of ${client} is unreadable`, { cause });
    return Object.fromEntries(names.map((name) => [name, error]));
  }
}

const mapped = (
  all: Readonly<Record<string, Configured>>,
  change: (index: Configured) => Configured,
): Record<string, Configured> => Object.fromEntries(Object.entries(all).map(([name, index]) => [name, change(index)]));
