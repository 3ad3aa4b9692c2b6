/**
 * Archives that clients of one tenant upload for COPY. Each is kept as it arrived, under the hash that its client
 * computed and the digest of its bytes. Nothing here opens them: they are hostile, and are unpacked in the VM that
 * copies their files.
 *
 *     <uploadsDir>/HASH-SHA256        the archive
 *                 /.ID                an upload in progress, whose bytes are reserved before they arrive
 *                 /build-ID-N         a second name for a build that uses it
 */
import { createHash, randomBytes } from 'node:crypto';
import { link, mkdir, open, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../../base/clock.ts';
import { errorCode, ifThere } from '../../../base/errors.ts';
import { FairShare } from '../../../base/fairness/fair-share.ts';
import { newSandboxId } from '../../../base/ids.ts';
import { ignore } from '../../../base/ignore.ts';
import { namesIn } from '../../../base/names-in.ts';
import { BusyError } from '../../../sandbox/contract/errors.ts';
import type { UploadRoom } from '../../tenants/storage-quota.ts';
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

  /**
   * The URL is used up, and the announced bytes are reserved, before the first one is read.
   * @param announced length of the body; undefined if the client does not say it
   * @throws E2bError 403, 408, 413, 507; BusyError, also for a quota
   */
  async receive(token: string, body: AsyncIterable<Buffer>, announced?: number): Promise<void> {
    const url = this.#urls.get(token);
    if (url === undefined || url.untilMs <= this.#clock.now()) {
      throw new E2bError(403, 'this upload URL is not valid, or no longer');
    }
    const place = this.#active.take(url.uploads.dir, 1);
    if (place === undefined) throw new BusyError('too many uploads', 1000);
    try {
      await url.uploads.add(url.hash, body, announced, () => {
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

export interface UploadLimits {
  readonly uploadBytesMax: number;
  readonly uploadsBytesMax: number;
  readonly uploadStepBytes: number;
  readonly uploadMsMax: number;
}

export class Uploads {
  readonly dir: string;
  readonly #clock: Clock;
  readonly #limits: UploadLimits;
  readonly #room: UploadRoom | undefined;
  /** Reserved bytes of each upload in progress, by its file. */
  readonly #reserved = new Map<string, number>();
  #lastTurn: Promise<unknown> = Promise.resolve();

  private constructor(dir: string, clock: Clock, limits: UploadLimits, room: UploadRoom | undefined) {
    this.dir = dir;
    this.#clock = clock;
    this.#limits = limits;
    this.#room = room;
  }

  /** Removes incomplete files of a killed daemon. @param room by the owner's quota. Default: unlimited */
  static async open(dir: string, clock: Clock, limits: UploadLimits = E2B_LIMITS, room?: UploadRoom): Promise<Uploads> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    for (const name of await namesIn(dir)) {
      if (!FILE.test(name)) await rm(join(dir, name), { force: true });
    }
    return new Uploads(dir, clock, limits, room);
  }

  /** Bytes of archives, and those that uploads in progress have reserved. */
  async bytes(): Promise<number> {
    return await this.#inTurn(async () => (await this.#count()).keptBytes + this.#reservedBytes());
  }

  /** Removes the archives that no build holds. */
  async clear(): Promise<void> {
    await this.#inTurn(async () => {
      for (const { path } of (await this.#count()).removable) await rm(path, { force: true });
    });
  }

  async has(hash: string): Promise<boolean> {
    return (await this.#find(hash)) !== undefined;
  }

  /**
   * @param announced length of the body in bytes, if known
   * @param begin called once the bytes are reserved, before the first one is read
   * @throws E2bError 408, 413, 507; QuotaError; what `begin` throws
   */
  async add(
    hash: string,
    body: AsyncIterable<Buffer>,
    announced: number | undefined,
    begin: () => void,
  ): Promise<void> {
    const next = `.${newSandboxId()}`;
    try {
      await this.#reserve(next, announced ?? 0);
      begin();
      const sha256 = await this.#write(next, body);
      await this.#inTurn(async () => {
        const before = await this.#find(hash);
        await rename(join(this.dir, next), join(this.dir, `${hash}-${sha256}`));
        if (before !== undefined && before.sha256 !== sha256) await rm(before.path, { force: true });
        this.#reserved.delete(next);
      });
    } catch (error) {
      if (errorCode(error) !== 'ENOSPC' && errorCode(error) !== 'EDQUOT') throw error;
      throw new E2bError(507, 'there is no room for the upload', { cause: error });
    } finally {
      await rm(join(this.dir, next), { force: true });
      this.#reserved.delete(next);
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

  /** Counts and changes of the directory must not interleave. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#lastTurn.then(work);
    this.#lastTurn = turn.catch((error: unknown) => ignore(error, 'reported to the caller'));
    return turn;
  }

  /** Raises the reservation of an upload, for which the least recently used archives go. @throws E2bError 413, 507; QuotaError */
  async #reserve(upload: string, bytes: number): Promise<void> {
    const { uploadBytesMax, uploadsBytesMax } = this.#limits;
    if (bytes > uploadBytesMax) {
      throw new E2bError(413, `the archive is larger than ${uploadBytesMax} bytes`, {
        remedy: 'exclude files, for example in .dockerignore',
      });
    }
    await this.#inTurn(async () => {
      const room = (await this.#room?.bytes()) ?? Number.POSITIVE_INFINITY;
      const { keptBytes, removable } = await this.#count();
      let total = keptBytes + this.#reservedBytes(upload) + bytes;
      const least = total - removable.reduce((sum, one) => sum + one.bytes, 0);
      if (least > room && this.#room !== undefined) throw this.#room.refusal(least - bytes, bytes);
      if (least > uploadsBytesMax) {
        throw new E2bError(507, 'waiting builds and other uploads hold all room for uploads', {
          remedy: 'upload it again once one of them has ended',
        });
      }
      for (const one of removable.toSorted((a, b) => a.usedAtMs - b.usedAtMs)) {
        if (total <= Math.min(uploadsBytesMax, room)) break;
        await rm(one.path, { force: true });
        total -= one.bytes;
      }
      this.#reserved.set(upload, bytes);
    });
  }

  #reservedBytes(without?: string): number {
    return [...this.#reserved].reduce((sum, [name, own]) => (name === without ? sum : sum + own), 0);
  }

  /** The archives, also those that builds keep, without uploads in progress. */
  async #count(): Promise<{ keptBytes: number; removable: { path: string; bytes: number; usedAtMs: number }[] }> {
    const sizes = new Map<number, number>();
    const removable: { path: string; bytes: number; usedAtMs: number }[] = [];
    for (const name of await namesIn(this.dir)) {
      if (this.#reserved.has(name)) continue;
      const path = join(this.dir, name);
      const found = await ifThere(stat(path));
      if (found === undefined) continue;
      sizes.set(found.ino, found.size);
      // An archive that a build keeps has a second name, so removing the first one frees nothing.
      if (FILE.test(name) && found.nlink === 1) {
        removable.push({ path, bytes: found.size, usedAtMs: found.mtimeMs });
      }
    }
    return { keptBytes: [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0), removable };
  }

  /** @returns digest of the bytes. @throws E2bError 408, 413, 507 */
  async #write(upload: string, body: AsyncIterable<Buffer>): Promise<string> {
    const { uploadMsMax, uploadStepBytes, uploadBytesMax } = this.#limits;
    const untilMs = this.#clock.now() + uploadMsMax;
    const hash = createHash('sha256');
    let bytes = 0;
    await using file = await open(join(this.dir, upload), 'wx', 0o600);
    for await (const chunk of body) {
      if (this.#clock.now() > untilMs) throw new E2bError(408, `the upload took longer than ${uploadMsMax / 1000} s`);
      bytes += chunk.length;
      if (bytes > (this.#reserved.get(upload) ?? 0)) {
        await this.#reserve(upload, Math.max(bytes, Math.min(bytes + uploadStepBytes, uploadBytesMax)));
      }
      hash.update(chunk);
      await file.writeFile(chunk);
    }
    return hash.digest('hex');
  }
}
