/**
 * Copies trees of files between this machine and a guest. Each copy is planned first (each entry with its kind and
 * size), so that the total is known and impossible copies fail before they start.
 *
 *     copy-in   here ──► guest      the source is trusted, the guest is not asked
 *     copy-out  guest ──► here      everything that the guest lists is hostile; `CopyTarget` writes
 */
import { CodedError, errorCode } from '../../base/errors.ts';
import { type Progress, silentProgress } from '../../base/progress.ts';
import { GIB, MIB } from '../../base/units.ts';

export type CopyErrorCode =
  /** The source can't be copied: missing, unreadable, neither a file nor a directory, or too many files. */
  | 'invalid_source'
  /** The guest listed a name that would lead out of the target. */
  | 'hostile_name'
  /** An entry of another type exists here. */
  | 'in_the_way'
  /** The guest sends more than its largest possible disk. */
  | 'too_large'
  /** A program of the guest that creates a link or sets a mode failed. */
  | 'guest_failed'
  | 'disk_full'
  /** This user may not write the target, or its file system is read-only. */
  | 'not_writable';

export class CopyError extends CodedError<CopyErrorCode> {}

/** Entries of one copy; larger trees need an archive. */
export const ENTRIES_MAX = 20_000;
/** Directories on the way to an entry: each is opened for each file below it. */
export const DEPTH_MAX = 100;
/** The largest disk of a sandbox. A hostile guest may send endlessly. */
const BYTES_MAX = 64 * GIB;
/** Concurrent copies: each file takes a connection and a child process of the agent. */
export const FILES_AT_ONCE = 4;
/** Smaller copies show no progress. */
const SHOWN_FROM_BYTES = 8 * MIB;

/** Adds a remedy if this machine refuses the copy; other errors stay unchanged. */
export function writeError(error: unknown, target: string): unknown {
  const code = error instanceof CodedError ? undefined : errorCode(error);
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new CopyError('disk_full', `${target}: no space left on the disk of this machine`, {
      remedy: 'free space, or choose a target on another disk',
    });
  }
  if (code !== 'EACCES' && code !== 'EPERM' && code !== 'EROFS') return error;
  const why = code === 'EROFS' ? 'the file system is read-only' : 'permission denied';
  return new CopyError('not_writable', `${target}: ${why}`, { remedy: 'choose another target' });
}

export interface TransferOptions {
  /** Guest user whose rights apply and whose home relative paths start at. Default `user`. */
  readonly user?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called for large copies. */
  readonly onProgress?: Progress | undefined;
}

export interface FileAccess {
  readonly user?: string;
  readonly signal?: AbortSignal;
}

export const fileOptions = ({ user, signal }: TransferOptions): FileAccess => ({
  ...(user === undefined ? {} : { user }),
  ...(signal === undefined ? {} : { signal }),
});

export class TransferProgress {
  readonly #report: Progress;
  readonly #totalBytes: number;
  readonly #startedAt = performance.now();
  #bytes = 0;
  readonly #shown: boolean;

  constructor(report: Progress = silentProgress, title: string, totalBytes: number) {
    this.#report = report;
    this.#totalBytes = totalBytes;
    this.#shown = totalBytes >= SHOWN_FROM_BYTES;
    if (!this.#shown) return;
    this.#report({ kind: 'start', step: 'copy', title });
  }

  get bytes(): number {
    return this.#bytes;
  }

  async *count(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of source) {
      this.#bytes += chunk.length;
      if (this.#bytes > BYTES_MAX) {
        throw new CopyError('too_large', `copy: more than ${BYTES_MAX / GIB} GiB`);
      }
      if (this.#shown) {
        this.#report({
          kind: 'update',
          step: 'copy',
          fraction: this.#bytes / Math.max(1, this.#totalBytes),
          detail: `${inMib(this.#bytes)} of ${inMib(this.#totalBytes)} MiB`,
        });
      }
      yield chunk;
    }
  }

  end(succeeded: boolean): void {
    if (!this.#shown) return;
    const durationMs = performance.now() - this.#startedAt;
    if (succeeded) this.#report({ kind: 'done', step: 'copy', cached: false, durationMs });
    else this.#report({ kind: 'failed', step: 'copy', message: 'the copy failed' });
  }
}

const inMib = (bytes: number): string => (bytes / MIB).toFixed(0);

/**
 * Runs the action for each item, a few at a time; after the first failure, starts no more and waits for the running
 * ones.
 */
export async function someAtOnce<T>(items: readonly T[], action: (item: T) => Promise<void>): Promise<void> {
  const rest = items.values();
  let failed = false;
  const work = async (): Promise<void> => {
    for (const item of rest) {
      if (failed) return;
      try {
        await action(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const workers = await Promise.allSettled(Array.from({ length: FILES_AT_ONCE }, work));
  for (const one of workers) if (one.status === 'rejected') throw one.reason;
}
