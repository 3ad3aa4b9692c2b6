/**
 * Results of builds for later builds: the scratch disk after each step, and the disks of cache mounts.
 *
 *     <cacheDir>/dockerfile/steps/<key>.ext4      sparse; bounded, the least recently used are removed
 *                          /mounts/<ids>.ext4     one for each context and set of ids that a stage names
 *                          /locks/<key>           the second of two equal concurrent builds waits for the first
 */
import { chmod, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep, systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import { ignore } from '../../base/ignore.ts';
import { GIB, STAT_BLOCK_BYTES } from '../../base/units.ts';
import { tryLockExclusive } from '../../sys/file.ts';
import { cloneSparse } from '../../sys/sparse-threads.ts';
import type { StepKey } from './keys.ts';

const KINDS = ['steps', 'mounts'] as const;
type Kind = (typeof KINDS)[number];

/** Limit of all files together, on disk. */
export const BUILD_CACHE_BYTES_MAX = 20 * GIB;
const LOCK_POLL_MS = 50;
/** Longer than any build takes. */
const LEFTOVER_MS = 24 * 60 * 60_000;

export class BuildCache {
  readonly #dir: string;
  readonly #bytesMax: number;

  /** @param dir `<cacheDir>/dockerfile` */
  constructor(dir: string, bytesMax = BUILD_CACHE_BYTES_MAX) {
    this.#dir = dir;
    this.#bytesMax = bytesMax;
  }

  async make(): Promise<void> {
    for (const name of [...KINDS, 'locks']) await mkdir(join(this.#dir, name), { recursive: true });
  }

  path(kind: Kind, key: StepKey): string {
    return join(this.#dir, kind, `${key.slice('sha256:'.length)}.ext4`);
  }

  /** Also marks it as used now. @param bytesMin returns false for a smaller disk, whose file system can't grow */
  async has(kind: Kind, key: StepKey, bytesMin = 0): Promise<boolean> {
    const now = new Date(systemClock.wall());
    const path = this.path(kind, key);
    try {
      if ((await stat(path)).size < bytesMin) return false;
      await utimes(path, now, now);
      return true;
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return false;
      throw error;
    }
  }

  /** Keeps a copy of the disk, which must not be written meanwhile. */
  async keep(kind: Kind, key: StepKey, disk: string): Promise<void> {
    const path = this.path(kind, key);
    const next = `${path}.${newSandboxId()}`;
    try {
      await cloneSparse(disk, next);
      // Read by VMMs, which run as another user.
      await chmod(next, 0o644);
      await rename(next, path);
    } finally {
      await rm(next, { force: true });
    }
  }

  /** @throws if it is missing */
  async copy(kind: Kind, key: StepKey, to: string): Promise<void> {
    await cloneSparse(this.path(kind, key), to);
    await chmod(to, 0o600);
  }

  /** Runs the work of a key; equal work in any process waits. */
  async alone<T>(key: StepKey, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const path = join(this.#dir, 'locks', key.slice('sha256:'.length));
    await using lock = await open(path, 'a', 0o600);
    while (!tryLockExclusive(lock.fd)) await sleep(LOCK_POLL_MS, signal);
    // Another build removes locks that look old.
    await lock.utimes(systemClock.wall() / 1000, systemClock.wall() / 1000);
    return await work();
  }

  /**
   * Removes the least recently used files beyond the limit, and leftovers of killed builds.
   * @param needed steps to keep
   */
  async enforceBound(needed: ReadonlySet<StepKey>): Promise<void> {
    const kept = new Set([...needed].map((key) => this.path('steps', key)));
    const files: { path: string; bytes: number; usedAtMs: number; isWhole: boolean }[] = [];
    for (const kind of KINDS) {
      const dir = join(this.#dir, kind);
      for (const name of await readdir(dir)) {
        const path = join(dir, name);
        const info = await stat(path).catch((error: unknown) => {
          ignore(error, 'another build has just removed it');
        });
        if (info === undefined) continue;
        const isWhole = /^[0-9a-f]{64}\.ext4$/.test(name);
        files.push({ path, bytes: info.blocks * STAT_BLOCK_BYTES, usedAtMs: info.mtimeMs, isWhole });
      }
    }
    const tooOldMs = systemClock.wall() - LEFTOVER_MS;
    let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { path, bytes, usedAtMs, isWhole } of files.toSorted((a, b) => a.usedAtMs - b.usedAtMs)) {
      const isLeft = !isWhole && usedAtMs < tooOldMs;
      if (!isLeft && (!isWhole || kept.has(path) || total <= this.#bytesMax)) continue;
      total -= bytes;
      await rm(path, { force: true });
    }
    await this.#removeLocks(tooOldMs);
  }

  async #removeLocks(tooOldMs: number): Promise<void> {
    const dir = join(this.#dir, 'locks');
    for (const name of await readdir(dir)) {
      const info = await stat(join(dir, name)).catch(() => undefined);
      if (info !== undefined && info.mtimeMs < tooOldMs) await rm(join(dir, name), { force: true });
    }
  }
}
