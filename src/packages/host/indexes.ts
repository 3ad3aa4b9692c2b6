/** Reads the indexes that this host's own package clients use. */
import type { IndexSet } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';
import { pipIndex } from './pip.ts';

/** @throws PackageError `index_invalid` */
export async function readIndexes(files: HostFiles): Promise<IndexSet> {
  return { pip: await pipIndex(files) };
}
