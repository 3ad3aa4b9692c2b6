/**
 * Archives that clients of one tenant upload for COPY. Each is kept as it arrived, under the hash that its client
 * computed and the digest of its bytes. Nothing here opens them: they are hostile, and are unpacked in the VM that
 * copies their files.
 *
 *     <uploadsDir>/HASH-SHA256        the archive
 *                 /.ID                an upload in progress
 *                 /build-ID-N         a second name for a build that uses it
 */
import { createHash, randomBytes } from 'node:crypto';
import { link, mkdir, open, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../../base/clock.ts';
import { errorCode, ifThere } from '../../../base/errors.ts';
import { FairShare } from '../../../base/fairness/fair-share.ts';
import { newSandboxId } from '../../../base/ids.ts';
import { namesIn } from '../../../base/names-in.ts';
import { BusyError } from '../../../sandbox/contract/errors.ts';
import { E2bError } from '../errors.ts';
import { E2B_LIMITS } from '../limits.ts';

export const FILES_HASH = /^[0-9a-f]{64}$/;
const FILE = /^([0-9a-f]{64})-([0-9a-f]{64})$/;

export interface UploadedArchive {
  readonly path: string;
  readonly sha256: string;
}

/** Upload URLs of all tenants: an upload has no key that would name its tenant. */
export class UploadUrls {
  readonly #clock: Clock;
  /** By token, oldest first. */
  readonly #urls = new Map<string, UploadUrl>();
  /** Tokens of each tenant, oldest first. */
  readonly #own = new Map<Uploads, Set<string>>();
  readonly #active = new FairShare(E2B_LIMITS.uploadsAtOnce);

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Returns a new token, which allows uploading one archive. @param hash matches `FILES_HASH` */
  allow(uploads: Uploads, hash: string): string {
    const { uploadUrlMs, uploadUrlsMax } = E2B_LIMITS;
    const now = this.#clock.now();
    for (const [token, { untilMs }] of this.#urls) {
      if (untilMs > now) break;
      this.#forget(token);
    }
    const own = this.#own.get(uploads) ?? new Set();
    const [oldest] = own;
    if (own.size >= uploadUrlsMax && oldest !== undefined) this.#forget(oldest);
    const token = randomBytes(32).toString('base64url');
    this.#urls.set(token, { uploads, hash, untilMs: now + uploadUrlMs });
    this.#own.set(uploads, own.add(token));
    return token;
  }

  /** @returns false for an unknown token */
  #forget(token: string): boolean {
    const url = this.#urls.get(token);
    if (url === undefined) return false;
    const own = this.#own.get(url.uploads);
    own?.delete(token);
    if (own?.size === 0) this.#own.delete(url.uploads);
    return this.#urls.delete(token);
  }

  /** @throws E2bError 403, 413, 507; BusyError */
  async receive(token: string, body: AsyncIterable<Buffer>): Promise<void> {
    const url = this.#urls.get(token);
    if (url === undefined || url.untilMs <= this.#clock.now()) {
      throw new E2bError(403, 'this upload URL is not valid, or no longer');
    }
    const place = this.#active.take(url.uploads.dir, 1);
    if (place === undefined) throw new BusyError('too many uploads', 1000);
    try {
      await url.uploads.add(url.hash, body, () => {
        // For two uploads to one URL, the first wins.
        if (!this.#forget(token)) throw new E2bError(403, 'this upload URL was used');
      });
    } finally {
      place.release();
    }
  }
}

interface UploadUrl {
  readonly uploads: Uploads;
  readonly hash: string;
  readonly untilMs: number;
}

export class Uploads {
  readonly dir: string;
  readonly #clock: Clock;

  private constructor(dir: string, clock: Clock) {
    this.dir = dir;
    this.#clock = clock;
  }

  /** Removes incomplete files of a killed daemon. */
  static async open(dir: string, clock: Clock): Promise<Uploads> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    for (const name of await namesIn(dir)) {
      if (!FILE.test(name)) await rm(join(dir, name), { force: true });
    }
    return new Uploads(dir, clock);
  }

  async has(hash: string): Promise<boolean> {
    return (await this.#find(hash)) !== undefined;
  }

  /** @param use called when the archive is complete. @throws E2bError 413, 507 */
  async add(hash: string, body: AsyncIterable<Buffer>, use: () => void): Promise<void> {
    const next = join(this.dir, `.${newSandboxId()}`);
    try {
      const sha256 = await write(next, body);
      use();
      const before = await this.#find(hash);
      await rename(next, join(this.dir, `${hash}-${sha256}`));
      if (before !== undefined && before.sha256 !== sha256) await rm(before.path, { force: true });
      await this.#enforceBound(hash);
    } catch (error) {
      if (errorCode(error) !== 'ENOSPC' && errorCode(error) !== 'EDQUOT') throw error;
      throw new E2bError(507, 'there is no room for the upload', { cause: error });
    } finally {
      await rm(next, { force: true });
    }
  }

  /** Gives the archive a second name, so that it stays during the build. @returns undefined if it was not uploaded */
  async keepFor(buildId: string, step: number, hash: string): Promise<UploadedArchive | undefined> {
    const found = await this.#find(hash);
    if (found === undefined) return undefined;
    const path = join(this.dir, `build-${buildId}-${step}`);
    await rm(path, { force: true });
    await link(found.path, path);
    const now = new Date(this.#clock.wall());
    await utimes(found.path, now, now);
    return { path, sha256: found.sha256 };
  }

  async release(buildId: string): Promise<void> {
    for (const name of await namesIn(this.dir)) {
      if (name.startsWith(`build-${buildId}-`)) await rm(join(this.dir, name), { force: true });
    }
  }

  async #find(hash: string): Promise<UploadedArchive | undefined> {
    const name = (await namesIn(this.dir)).find((one) => FILE.exec(one)?.[1] === hash);
    if (name === undefined) return undefined;
    return { path: join(this.dir, name), sha256: FILE.exec(name)?.[2] ?? '' };
  }

  /** Includes archives that builds keep and uploads in progress. @param newest removed last. @throws E2bError 507 */
  async #enforceBound(newest: string): Promise<void> {
    const sizes = new Map<number, number>();
    const removable: { path: string; bytes: number; usedAtMs: number }[] = [];
    for (const name of await namesIn(this.dir)) {
      const path = join(this.dir, name);
      const found = await ifThere(stat(path));
      if (found === undefined) continue;
      sizes.set(found.ino, found.size);
      // An archive that a build keeps has a second name, so removing the first one frees nothing.
      if (!FILE.test(name) || found.nlink > 1) continue;
      const usedAtMs = name.startsWith(newest) ? Number.POSITIVE_INFINITY : found.mtimeMs;
      removable.push({ path, bytes: found.size, usedAtMs });
    }
    let total = [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
    for (const { path, bytes, usedAtMs } of removable.toSorted((a, b) => a.usedAtMs - b.usedAtMs)) {
      if (total <= E2B_LIMITS.uploadsBytesMax) return;
      total -= bytes;
      await rm(path, { force: true });
      if (usedAtMs !== Number.POSITIVE_INFINITY) continue;
      throw new E2bError(507, 'builds that wait hold all room for uploads', {
        remedy: 'upload it again once one of them has ended',
      });
    }
  }
}

/** @returns digest of the bytes. @throws E2bError 413 */
async function write(path: string, body: AsyncIterable<Buffer>): Promise<string> {
  const hash = createHash('sha256');
  let bytes = 0;
  await using file = await open(path, 'wx', 0o600);
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > E2B_LIMITS.uploadBytesMax) {
      throw new E2bError(413, `the archive is larger than ${E2B_LIMITS.uploadBytesMax} bytes`, {
        remedy: 'exclude files, for example in .dockerignore',
      });
    }
    hash.update(chunk);
    await file.writeFile(chunk);
  }
  return hash.digest('hex');
}
