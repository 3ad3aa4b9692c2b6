/** The files of the image cache: their paths, last uses, and eviction. */
import { mkdir, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { errorCode, ifThere } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { namesIn } from '../../base/names-in.ts';
import { STAT_BLOCK_BYTES } from '../../base/units.ts';
import { UNFINISHED } from './builder.ts';

const KINDS = ['blobs', 'layers', 'environments'] as const;
export type FileKind = (typeof KINDS)[number];

export interface CacheFile {
  readonly kind: FileKind;
  readonly path: string;
  /** Hexadecimal digest of the blob, or key of the layer or environment. */
  readonly hex: string;
  readonly bytes: number;
  /** Bytes that its removal frees. */
  readonly ownBytes: number;
  readonly usedAtMs: number;
}

/** Longer than any pull takes. */
const LEFTOVER_MS = 24 * 60 * 60_000;

const SUFFIX: Readonly<Record<FileKind, string>> = { blobs: '', layers: '.erofs', environments: '.erofs' };

export class ImageFiles {
  readonly dir: string;

  /** @param dir `<cacheDir>/oci` */
  constructor(dir: string) {
    this.dir = dir;
  }

  /** Creates the directories, and removes leftovers of pulls killed a day ago. */
  async make(): Promise<void> {
    for (const name of [...KINDS, 'tmp']) await mkdir(join(this.dir, name), { recursive: true });
    const tooOldMs = systemClock.wall() - LEFTOVER_MS;
    for (const kind of ['tmp', ...KINDS]) {
      for (const name of await namesIn(join(this.dir, kind))) {
        if (kind !== 'tmp' && !name.endsWith(UNFINISHED)) continue;
        const path = join(this.dir, kind, name);
        const found = await stat(path).catch((error: unknown) => {
          ignore(error, 'another pull has just removed it');
        });
        if (found === undefined || found.mtimeMs > tooOldMs) continue;
        await rm(path, { recursive: true, force: true });
      }
    }
  }

  /** @param digest `sha256:…` */
  path(kind: FileKind, digest: string): string {
    return join(this.dir, kind, `${hexOf(digest)}${SUFFIX[kind]}`);
  }

  /** Marks a file as used now. @returns its size in bytes; `null` if it does not exist */
  async use(kind: FileKind, digest: string): Promise<number | null> {
    const path = this.path(kind, digest);
    const now = new Date(systemClock.wall());
    return (await ifThere(utimes(path, now, now).then(() => stat(path))))?.size ?? null;
  }

  async list(): Promise<readonly CacheFile[]> {
    const found: CacheFile[] = [];
    for (const kind of KINDS) {
      const dir = join(this.dir, kind);
      for (const name of await namesIn(dir)) {
        const [, hex] = /^([0-9a-f]{64})(?:\.erofs)?$/.exec(name) ?? [];
        if (hex === undefined) continue;
        const path = join(dir, name);
        const info = await stat(path).catch((error: unknown) => {
          if (errorCode(error) !== 'ENOENT') throw error;
          ignore(error, 'another process has just removed it');
        });
        if (info === undefined) continue;
        const bytes = info.blocks * STAT_BLOCK_BYTES;
        // Templates and sandboxes have their own names for environments.
        const ownBytes = info.nlink === 1 ? bytes : 0;
        found.push({ kind, path, hex, bytes, ownBytes, usedAtMs: info.mtimeMs });
      }
    }
    return found;
  }

  async remove(file: CacheFile): Promise<void> {
    await rm(file.path, { force: true });
    if (file.kind === 'environments') await rm(`${file.path}.json`, { force: true });
  }
}

export const hexOf = (digest: string): string => digest.slice('sha256:'.length);

/**
 * Selects the files to remove so that the rest fits the quota: blobs and layers first, which only save time, then
 * environments; each by last use.
 * @param keep hexadecimal digests of files in use
 */
export function chooseEvictions(
  files: readonly CacheFile[],
  quotaBytes: number,
  keep: ReadonlySet<string>,
): readonly CacheFile[] {
  let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  const rank = ({ kind }: CacheFile): number => (kind === 'environments' ? 1 : 0);
  const candidates = files
    .filter(({ hex }) => !keep.has(hex))
    .toSorted((a, b) => rank(a) - rank(b) || a.usedAtMs - b.usedAtMs);
  const chosen: CacheFile[] = [];
  for (const file of candidates) {
    if (total <= quotaBytes) break;
    total -= file.bytes;
    chosen.push(file);
  }
  return chosen;
}
