/** What lies in a home, by kind, for `neurovisor df`. */
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import type { Home } from '../../base/home.ts';
import { STAT_BLOCK_BYTES } from '../../base/units.ts';

/** Kind → its paths below the home. What no kind names is `other`. */
const KINDS = {
  sandboxes: ['data'],
  templates: ['cache/template', 'templates'],
  images: ['cache/oci'],
  'Dockerfile steps': ['cache/dockerfile'],
  packages: ['cache/packages'],
  models: ['cache/model', 'cache/models'],
  system: ['cache/kernel', 'cache/guest-base', 'cache/rootfs', 'cache/overlay', 'cache/builder-tools'],
  'E2B uploads': ['cache/e2b-uploads'],
  events: ['events.db', 'events.db-wal', 'events.db-shm'],
  'audit logs': ['audit'],
  'Node.js': ['node', 'cache/node'],
} as const;
export type DiskKind = keyof typeof KINDS | 'other';

export interface KindBytes {
  readonly kind: DiskKind;
  /** On disk: sparse files count what they hold, and a file with several names once. */
  readonly bytes: number;
}

/** Measures each kind. Files that vanish meanwhile do not count. */
export async function diskUsage({ dir }: Pick<Home, 'dir'>): Promise<readonly KindBytes[]> {
  const seen = new Set<string>();
  const usage: KindBytes[] = [];
  const named = new Set<string>();
  for (const [kind, paths] of Object.entries(KINDS) as [DiskKind, readonly string[]][]) {
    let bytes = 0;
    for (const path of paths) {
      named.add(join(dir, path));
      bytes += await sizeOf(join(dir, path), seen);
    }
    usage.push({ kind, bytes });
  }
  return [...usage, { kind: 'other', bytes: await sizeOf(dir, seen, named) }];
}

/** Bytes of a file, or of all below a directory. @param without paths to leave out */
async function sizeOf(path: string, seen: Set<string>, without: ReadonlySet<string> = new Set()): Promise<number> {
  if (without.has(path)) return 0;
  try {
    const info = await lstat(path);
    const id = `${info.dev}:${info.ino}`;
    if (info.nlink > 1 && !info.isDirectory()) {
      if (seen.has(id)) return 0;
      seen.add(id);
    }
    let bytes = info.blocks * STAT_BLOCK_BYTES;
    if (info.isDirectory())
      for (const name of await readdir(path)) bytes += await sizeOf(join(path, name), seen, without);
    return bytes;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return 0;
    throw error;
  }
}
