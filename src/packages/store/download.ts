/**
 * One download that several readers follow while it arrives (io). Its last byte is held back until the digest is
 * right; otherwise every reader fails.
 */
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, open, rm } from 'node:fs/promises';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { KIB } from '../../base/units.ts';
import { PackageError } from '../errors.ts';
import { CACHE_LIMITS } from '../limits.ts';
import type { Digest } from '../policy.ts';
import type { FileAnswer } from '../upstream/fetch.ts';
import type { FileStore } from './file-store.ts';

const READ_BYTES = 64 * KIB;

export interface DownloadOptions {
  readonly store: FileStore;
  readonly key: string;
  /** Null: nobody knows it beforehand; the client checks the file. */
  readonly digest: Digest | null;
  readonly clock: Clock;
  fetch(signal: AbortSignal): Promise<FileAnswer>;
  /** Called once, when no further reader may join. */
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

  constructor(options: DownloadOptions) {
    this.#options = options;
    this.#head.promise.catch((error: unknown) => ignore(error, 'readers report it'));
    void this.#run();
  }

  /** @throws PackageError: the index does not have it, or is unreachable */
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
      if (this.#state !== 'running') void this.#close();
    };
  }

  cancel(): void {
    this.#aborter.abort(new PackageError('canceled', 'nobody reads the download'));
  }

  /** Resolves to the size when the file is complete and its digest right. @throws PackageError */
  async complete(): Promise<number> {
    while (this.#state === 'running') await this.#change();
    if (this.#state === 'failed') throw this.#failure;
    return this.#written;
  }

  /**
   * Yields the bytes from `from`, all but the last as they arrive. Call it between `join` and its end.
   * @throws PackageError: the download failed
   */
  async *read(from: number): AsyncGenerator<Buffer, void, undefined> {
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
      else await this.#change();
    }
  }

  async #run(): Promise<void> {
    const { store, key, digest, fetch, onEnd } = this.#options;
    let path: string | undefined;
    let reserved = 0;
    try {
      const answer = await fetch(this.#aborter.signal);
      path = await store.temporary();
      this.#handle = await open(path, 'wx+', 0o600);
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
      await store.keep(path, key);
      this.#state = 'complete';
    } catch (error) {
      if (path !== undefined) await rm(path, { force: true });
      this.#state = 'failed';
      this.#failure = error;
      this.#head.reject(error);
    }
    store.release(reserved);
    onEnd();
    this.#wake();
    if (this.#readers === 0) await this.#close();
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

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.add(resolve));
  }

  #wake(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const resolve of waiting) resolve();
  }

  async #close(): Promise<void> {
    this.#cancelOrphan?.();
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close();
  }
}
