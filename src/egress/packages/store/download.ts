/**
 * One download that several readers follow while it arrives (io). Its last byte is held back until the digest is
 * verified; if it is wrong, every reader fails.
 */
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, open, rm } from 'node:fs/promises';
import type { Clock } from '../../../base/clock.ts';
import { isFullDisk } from '../../../base/errors.ts';
import { awaitOr, ignore } from '../../../base/ignore.ts';
import { orAborted } from '../../../base/time-limit.ts';
import { KIB } from '../../../base/units.ts';
import { PackageError } from '../errors.ts';
import { CACHE_LIMITS } from '../limits.ts';
import type { Digest } from '../policy.ts';
import type { FileAnswer } from '../upstream/fetch.ts';
import { type FileStore, noRoom } from './file-store.ts';

const READ_BYTES = 64 * KIB;

export interface DownloadOptions {
  readonly store: FileStore;
  readonly key: string;
  /** `null` if unknown before the download, so that the client checks the file. */
  readonly digest: Digest | null;
  readonly clock: Clock;
  fetch(signal: AbortSignal): Promise<FileAnswer>;
  /** Called when no further reader may join. */
  onEnd(): void;
}

export interface FileHead {
  readonly sizeBytes: number | null;
  readonly lastModified: string | undefined;
}

export class Download {
  readonly #options: DownloadOptions;
  readonly #aborter = new AbortController();
  readonly #head = Promise.withResolvers<FileHead>();
  readonly #waiting = new Set<() => void>();
  #written = 0;
  #state: 'running' | 'complete' | 'failed' = 'running';
  #failure: unknown;
  #readers = 0;
  #handle: FileHandle | undefined;
  #cancelOrphan: (() => void) | undefined;
  /** Resolves when the download is complete, or has failed and cleaned up. Never rejects. */
  readonly ended: Promise<void>;

  constructor(options: DownloadOptions) {
    this.#options = options;
    this.#head.promise.catch((error: unknown) => ignore(error, 'readers report it'));
    this.ended = this.#run();
  }

  /** @throws PackageError if the index does not have it, or is unreachable */
  head(): Promise<FileHead> {
    return this.#head.promise;
  }

  /** Counts a reader until the returned function is called. */
  join(): () => void {
    this.#readers += 1;
    this.#cancelOrphan?.();
    let left = false;
    return () => {
      if (left) return;
      left = true;
      this.#readers -= 1;
      if (this.#readers > 0) return;
      this.#cancelOrphan = this.#options.clock.after(CACHE_LIMITS.orphanMs, () => this.cancel());
      if (this.#state !== 'running') this.#close();
    };
  }

  cancel(): void {
    this.#options.onEnd();
    this.#aborter.abort(new PackageError('canceled', 'the download has no reader'));
  }

  /**
   * Resolves to the size when the file is complete and its digest verified.
   * @param signal of a reader that leaves
   * @throws PackageError, the signal's reason
   */
  async complete(signal: AbortSignal): Promise<number> {
    while (this.#state === 'running') await this.#change(signal);
    if (this.#state === 'failed') throw this.#failure;
    return this.#written;
  }

  /**
   * Yields the bytes from `from`, all but the last as they arrive. Call only while joined.
   * @throws PackageError if the download failed; the signal's reason
   */
  async *read(from: number, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    let at = from;
    for (;;) {
      if (this.#state === 'failed') throw this.#failure;
      const released = this.#state === 'complete' ? this.#written : this.#written - 1;
      if (at < released) {
        const length = Math.min(READ_BYTES, released - at);
        const buffer = Buffer.allocUnsafe(length);
        const { bytesRead } = (await this.#handle?.read(buffer, 0, length, at)) ?? { bytesRead: 0 };
        if (bytesRead === 0) throw new PackageError('canceled', 'the download was closed');
        at += bytesRead;
        yield buffer.subarray(0, bytesRead);
      } else if (this.#state === 'complete') return;
      else await this.#change(signal);
    }
  }

  async #run(): Promise<void> {
    const { store, key, digest, onEnd } = this.#options;
    let path: string | undefined;
    let reserved = 0;
    try {
      // First, since an answer without a place for its file would keep its connection.
      path = await store.temporary();
      this.#handle = await open(path, 'wx+', 0o600);
      const answer = await this.#options.fetch(this.#aborter.signal);
      await store.requireRoom(answer.sizeBytes);
      this.#head.resolve(answer);
      const hash = digest === null ? null : createHash(digest.algorithm);
      for await (const chunk of answer.body) {
        hash?.update(chunk);
        store.reserve(chunk.length);
        reserved += chunk.length;
        await this.#handle.writeFile(chunk);
        this.#written += chunk.length;
        this.#wake();
      }
      this.#check(answer, hash);
      // Without a digest, damage by a crash of the host would go unnoticed.
      if (digest === null) await this.#handle.datasync();
      await store.keep(path, key);
      this.#state = 'complete';
    } catch (error) {
      if (path !== undefined) await removed(path);
      this.#state = 'failed';
      this.#failure = isFullDisk(error) ? noRoom(error) : error;
      this.#head.reject(this.#failure);
    }
    store.release(reserved);
    onEnd();
    this.#wake();
    if (this.#readers === 0) this.#close();
  }

  #check({ sizeBytes }: FileAnswer, hash: Hash | null): void {
    if (sizeBytes !== null && sizeBytes !== this.#written) {
      throw new PackageError('upstream_unreachable', 'the index broke off the file');
    }
    const { digest } = this.#options;
    if (digest === null || hash?.digest('hex') === digest.hex) return;
    const message = `the file differs from its ${digest.algorithm} ${digest.hex}`;
    throw new PackageError('digest_mismatch', message);
  }

  async #change(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.add(resolve);
    await orAborted(promise, signal).finally(() => this.#waiting.delete(resolve));
  }

  #wake(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const resolve of waiting) resolve();
  }

  #close(): void {
    this.#cancelOrphan?.();
    const handle = this.#handle;
    this.#handle = undefined;
    handle?.close().catch((error: unknown) => ignore(error, 'the file was only read'));
  }
}

async function removed(path: string): Promise<void> {
  await awaitOr(undefined, 'a later eviction removes it', () => rm(path, { force: true }));
}
