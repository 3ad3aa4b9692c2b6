/**
 * Parses pages of indexes without holding up the event loop, which all sandboxes share (io).
 *
 *     up to 16 KiB, and the sandbox has loop time left ─► here
 *     larger ─► two threads of lower priority, shared in turns by sandboxes: a page of the largest size takes a second
 */
import type { Clock } from '../../../base/clock.ts';
import type { LoopTime } from '../../../base/fairness/loop-time.ts';
import {
  ThreadError,
  type ThreadErrorCode,
  type ThreadLimits,
  TurnThreads,
} from '../../../base/fairness/turn-threads.ts';
import type { Log } from '../../../base/log.ts';
import { modulePath } from '../../../base/module-path.ts';
import { KIB } from '../../../base/units.ts';
import { PackageError, type PackageErrorCode } from '../errors.ts';
import type { Catalog } from '../protocol/artifact.ts';
import { answerOf, type PageAnswer, type PageQuestion, type PageToRead, readPage } from './page-reading.ts';
import type { PageJob, PageVerdict } from './page-worker.ts';

const LOOP_BYTES_MAX = 16 * KIB;
/** Two, so that a sandbox that asks for the largest pages has one at most. */
const THREADS: ThreadLimits = { threadsMax: 2, nice: 10, workMsMax: 60_000, heapMibMax: 1024, threadIdleMs: 60_000 };

export interface Reader {
  readonly sandboxId: string;
  readonly loopTime: LoopTime;
  readonly signal: AbortSignal;
}

export class PageReader {
  readonly #threads: TurnThreads<PageJob, PageVerdict>;
  readonly #catalogs = new WeakMap<PageToRead, Catalog>();
  readonly #invalid = new WeakMap<PageToRead, PackageError>();

  constructor(clock: Clock, log: Log) {
    const path = modulePath('./page-worker.ts', import.meta.url);
    this.#threads = new TurnThreads({ clock, log, limits: THREADS, name: 'pages', path });
  }

  get threads(): number {
    return this.#threads.size;
  }

  /**
   * @throws PackageError `upstream_invalid`, `overloaded`
   * @throws the signal's reason, if the page was still waiting
   */
  async ask(page: PageToRead, question: PageQuestion, { sandboxId, loopTime, signal }: Reader): Promise<PageAnswer> {
    const known = this.#invalid.get(page);
    if (known !== undefined) throw known;
    try {
      if (page.page.body.length <= LOOP_BYTES_MAX && loopTime.isOpen) {
        return loopTime.run(() => answerOf(this.#catalogOf(page), question));
      }
      signal.throwIfAborted();
      const verdict = await this.#threads.run({ sandboxId, request: { page, question }, signal });
      if (verdict.kind !== 'invalid') return verdict;
      throw new PackageError('upstream_invalid', verdict.message);
    } catch (error) {
      const failure = error instanceof ThreadError ? lost(error) : error;
      if (failure instanceof PackageError && failure.code === 'upstream_invalid') {
        this.#invalid.set(page, failure);
      }
      throw failure;
    }
  }

  async close(): Promise<void> {
    await this.#threads.close();
  }

  #catalogOf(page: PageToRead): Catalog {
    const known = this.#catalogs.get(page);
    if (known !== undefined) return known;
    const catalog = readPage(page);
    this.#catalogs.set(page, catalog);
    return catalog;
  }
}

const LOSSES: Readonly<Record<ThreadErrorCode, [PackageErrorCode, string]>> = {
  busy: ['overloaded', 'the page could not be read in time'],
  out_of_memory: ['upstream_invalid', 'the page takes too much memory to read'],
  failed: ['overloaded', 'the page could not be read'],
};

function lost(cause: ThreadError): PackageError {
  const [code, message] = LOSSES[cause.code];
  return new PackageError(code, message, { cause });
}
