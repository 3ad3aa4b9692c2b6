/**
 * Kernels and system images of this version and of those before, for saves that need them:
 *
 *     cache/kernel/…, cache/rootfs/…  ── hard links ──►  data/platforms/<sha256>
 *
 * A file stays while a save, a running VM or a living process of its version needs it; each start of a daemon removes
 * the others.
 */
import { closeSync, openSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { verifyImage } from '../../artifacts/image/verify.ts';
import { describeError } from '../../base/errors.ts';
import { tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { namesIn } from '../../base/names-in.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { MadeFrom, PlatformTable, SandboxParts } from '../../sandbox/contract/parts.ts';
import { tryLockExclusive, tryLockShared } from '../../sys/file.ts';
import { linkOrCopy } from '../../sys/link-or-copy.ts';
import type { Artifacts } from './setup.ts';

type Own = Pick<Artifacts, 'kernelPath' | 'kernelDigest' | 'rootImagePath' | 'rootImageDigest'>;

export class Platforms implements PlatformTable {
  readonly #dir: string | null;
  readonly #paths: Map<string, string>;
  readonly #own: Own;
  /** Locked descriptors, by digest: processes of other versions may use the same home. */
  readonly #held = new Map<string, number>();

  private constructor(dir: string | null, own: Own, kept: readonly string[]) {
    this.#dir = dir;
    this.#own = own;
    this.#paths = new Map(kept.map((digest) => [digest, join(dir ?? '', digest)]));
    this.#paths.set(own.kernelDigest, own.kernelPath).set(own.rootImageDigest, own.rootImagePath);
  }

  /** Keeps this version's files for the next one. @param dir `null`: only this version's are used, and none is kept */
  static async open(dir: string | null, own: Own, log: Log): Promise<Platforms> {
    if (dir === null) return new Platforms(null, own, []);
    const kept = (await namesIn(dir)).filter((name) => /^[0-9a-f]{64}$/.test(name));
    const platforms = new Platforms(dir, own, kept);
    const { kernelDigest, rootImageDigest, kernelPath, rootImagePath } = own;
    try {
      await mkdir(dir, { recursive: true, mode: 0o700 });
      if (!kept.includes(kernelDigest)) await keep(kernelPath, join(dir, kernelDigest));
      if (!kept.includes(rootImageDigest)) await keep(rootImagePath, join(dir, rootImageDigest));
      for (const digest of [kernelDigest, rootImageDigest]) platforms.#hold(digest, join(dir, digest));
    } catch (error) {
      log.warn('the next version can not resume what this one pauses', { reason: describeError(error) });
    }
    return platforms;
  }

  has({ kernelDigest, rootImageDigest }: Partial<MadeFrom>): boolean {
    return [kernelDigest, rootImageDigest].every((digest) => digest === undefined || this.#paths.has(digest));
  }

  async verify({ kernelDigest, rootImageDigest }: MadeFrom): Promise<void> {
    for (const digest of [kernelDigest, rootImageDigest]) {
      // Set-up has checked this version's.
      if (digest === this.#own.kernelDigest || digest === this.#own.rootImageDigest) continue;
      const path = this.#path(digest);
      try {
        this.#hold(digest, path);
        await verifyImage(path, digest);
      } catch (cause) {
        throw new SandboxError('snapshot_damaged', 'the kernel or image that it was made with is damaged', { cause });
      }
    }
  }

  /** What a VM of that platform is started with. */
  partsOf(madeFrom: MadeFrom | undefined): Partial<Pick<SandboxParts, 'madeFrom' | 'kernelPath' | 'rootImagePath'>> {
    if (madeFrom === undefined) return {};
    const { kernelDigest, rootImageDigest } = madeFrom;
    return { madeFrom, kernelPath: this.#path(kernelDigest), rootImagePath: this.#path(rootImageDigest) };
  }

  /** Removes the files that nothing names. */
  async collect(used: Iterable<MadeFrom>): Promise<void> {
    if (this.#dir === null) return;
    const needed = new Set<string>();
    for (const { kernelDigest, rootImageDigest } of [this.#own, ...used]) needed.add(kernelDigest).add(rootImageDigest);
    for (const name of await namesIn(this.#dir)) {
      const [digest = ''] = name.split('.');
      if (needed.has(digest) || this.#isHeld(name)) continue;
      this.#paths.delete(digest);
      await rm(join(this.#dir, name), { force: true });
    }
  }

  /** Lets other processes remove what this one held. */
  close(): void {
    for (const fd of this.#held.values()) closeSync(fd);
    this.#held.clear();
  }

  #hold(digest: string, path: string): void {
    if (this.#held.has(digest)) return;
    const fd = openSync(path, 'r');
    this.#held.set(digest, fd);
    tryLockShared(fd);
  }

  #isHeld(name: string): boolean {
    if (this.#dir === null) return false;
    const fd = tryOr(null, 'it was just removed', () => openSync(join(this.#dir ?? '', name), 'r'));
    if (fd === null) return false;
    try {
      return !tryLockExclusive(fd);
    } finally {
      closeSync(fd);
    }
  }

  #path(digest: string): string {
    const path = this.#paths.get(digest);
    if (path === undefined) throw new SandboxError('snapshot_foreign', `this host has no kernel or image ${digest}`);
    return path;
  }
}

async function keep(from: string, to: string): Promise<void> {
  const part = `${to}.part`;
  await rm(part, { force: true });
  await linkOrCopy(from, part);
  await rename(part, to);
}
