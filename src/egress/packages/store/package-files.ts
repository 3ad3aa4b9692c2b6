/** Files of packages: from the store, from a download in progress, or from a new one (io). */
import { createHash, type Hash } from 'node:crypto';
import type { Clock } from '../../../base/clock.ts';
import { orAborted } from '../../../base/time-limit.ts';
import { KIB } from '../../../base/units.ts';
import { PackageError } from '../errors.ts';
import type { Digest } from '../policy.ts';
import type { Artifact } from '../protocol/artifact.ts';
import type { Upstream } from '../upstream/fetch.ts';
import type { Index } from '../upstream/index-set.ts';
import { Download } from './download.ts';
import type { FileStore, StoredFile } from './file-store.ts';

const READ_BYTES = 256 * KIB;

export interface FilesOptions {
  readonly upstream: Upstream;
  readonly store: FileStore;
  readonly clock: Clock;
}

/** A file being read; its reader must call `close`. */
export interface OpenFile {
  /** `null` if known only at the end. */
  readonly sizeBytes: number | null;
  /** True if no index was asked. */
  readonly isCached: boolean;
  /** Resolves to the size when the whole file is there and verified. @throws PackageError */
  complete(): Promise<number>;
  /** @param to exclusive; `null` for the end. @throws PackageError if the file could not be completed */
  read(from: number, to: number | null): AsyncIterable<Buffer>;
  close(): Promise<void>;
}

export class PackageFiles {
  readonly #options: FilesOptions;
  readonly #downloads = new Map<string, Download>();
  #isClosed = false;

  constructor(options: FilesOptions) {
    this.#options = options;
  }

  /** @param signal of a reader that leaves. @throws PackageError, the signal's reason */
  async open({ url, digests }: Artifact, index: Index, signal: AbortSignal): Promise<OpenFile> {
    const digest = digests[0] ?? null;
    const { store, upstream, clock } = this.#options;
    const key = keyOf(url, digest);
    // A page may claim the digest of any file, so only readers of the same URL share a download.
    const flight = `${key} ${url}`;
    const running = this.#downloads.get(flight);
    if (running !== undefined) return await follow(running, true, signal);
    const stored = await store.find(key);
    if (stored !== undefined) return storedFile(stored, digest, () => store.drop(key));
    // Another reader may have started it meanwhile.
    const started = this.#downloads.get(flight);
    if (started !== undefined) return await follow(started, true, signal);
    if (this.#isClosed) throw new PackageError('closed', 'the package gateway is closed');
    const download: Download = new Download({
      store,
      key,
      digest,
      clock,
      fetch: (ending) => upstream.file({ url, index, accept: '*/*', signal: ending }),
      onEnd: () => {
        // A canceled download may end after the next has begun.
        if (this.#downloads.get(flight) === download) this.#downloads.delete(flight);
      },
    });
    this.#downloads.set(flight, download);
    return await follow(download, false, signal);
  }

  /** Resolves when no download is in progress, and all have cleaned up. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const running = [...this.#downloads.values()];
    for (const download of running) download.cancel();
    await Promise.all(running.map(({ ended }) => ended));
  }
}

function keyOf(url: string, digest: Digest | null): string {
  if (digest !== null) return `${digest.algorithm}-${digest.hex}`;
  return `url-${createHash('sha256').update(url).digest('hex')}`;
}

async function follow(download: Download, isCached: boolean, signal: AbortSignal): Promise<OpenFile> {
  const leave = download.join();
  try {
    const { sizeBytes } = await orAborted(download.head(), signal);
    return {
      sizeBytes,
      isCached,
      complete: () => download.complete(signal),
      async *read(from, to) {
        let left = to === null ? Number.POSITIVE_INFINITY : to - from;
        for await (const chunk of download.read(from, signal)) {
          yield chunk.subarray(0, left);
          left -= chunk.length;
          if (left <= 0) return;
        }
      },
      close: async () => leave(),
    };
  } catch (error) {
    leave();
    throw error;
  }
}

/**
 * A crash of the host, or its disk, may have changed the file: a whole read is verified, its last byte held back.
 * @param drop removes it from the store
 */
function storedFile({ handle, sizeBytes }: StoredFile, digest: Digest | null, drop: () => Promise<void>): OpenFile {
  const check = async (hash: Hash): Promise<void> => {
    if (hash.digest('hex') === digest?.hex) return;
    await drop();
    const message = `the stored file differs from its ${digest?.algorithm} ${digest?.hex}`;
    throw new PackageError('digest_mismatch', message);
  };
  return {
    sizeBytes,
    isCached: true,
    complete: async () => sizeBytes,
    async *read(from, to) {
      const end = Math.min(to ?? sizeBytes, sizeBytes);
      const isWhole = from === 0 && end === sizeBytes;
      const hash = digest === null || !isWhole ? null : createHash(digest.algorithm);
      if (hash !== null && sizeBytes === 0) await check(hash);
      for (let at = from; at < end; ) {
        const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, end - at));
        const { bytesRead } = await handle.read(buffer, 0, buffer.length, at);
        if (bytesRead === 0) throw new PackageError('canceled', 'the stored file was cut');
        at += bytesRead;
        const chunk = buffer.subarray(0, bytesRead);
        hash?.update(chunk);
        if (hash !== null && at === end) await check(hash);
        yield chunk;
      }
    },
    close: () => handle.close(),
  };
}
