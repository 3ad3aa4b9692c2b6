/** Reads the indexes that this host's own package clients use. */
import type { Index, IndexSet } from '../upstream/index-set.ts';
import { aptIndexes } from './apt.ts';
import { cargoIndex } from './cargo.ts';
import { goIndexes } from './go.ts';
import type { HostFiles } from './host-files.ts';
import { npmIndex } from './npm.ts';
import { pipIndex } from './pip.ts';

/**
 * @param fileHosts of the owner: `HOST` or `HOST:PORT` that files may come from
 * @throws PackageError `index_invalid`
 */
export async function readIndexes(
  files: HostFiles,
  fileHosts: readonly string[],
): Promise<IndexSet> {
  const cargo = await cargoIndex(files);
  const found: IndexSet = {
    pip: await pipIndex(files),
    npm: await npmIndex(files),
    ...(cargo === undefined ? {} : { cargo }),
    ...(await goIndexes(files)),
    ...(await aptIndexes(files)),
  };
  const withHosts = ([name, index]: [string, Index]) =>
    [name, { ...index, fileHosts: [...(index.fileHosts ?? []), ...fileHosts] }] as const;
  return Object.fromEntries(Object.entries(found).map(withHosts));
}
