/**
 * What a sandbox writes, while it does: its console and its VMM's log, over all its VMs.
 *
 *     VM ── LogTail (the last bytes, counted) ──► followLogs ──► one reader, at its pace
 *
 * Nothing waits for a reader: what has left the tail before it was read is counted and told.
 */
import { StringDecoder } from 'node:string_decoder';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { wait } from '../../base/time-limit.ts';
import type { LogTail, Vm } from '../../vmm/driver.ts';
import type { ControlPlane, LogChunk, SandboxInfo } from '../control.ts';
import type { SandboxLogs } from '../ending.ts';

export const FOLLOW_LIMITS = {
  /** Of one chunk. */
  chunkBytesMax: 16 * 1024,
  /** After a chunk, so that a guest that floods its console takes no processor of the host. */
  restMs: 25,
} as const;

const SOURCES = ['console', 'vmm'] as const;

/** As it is now. */
export function logsOf(vm: Vm | undefined): SandboxLogs {
  return { console: vm?.consoleTail() ?? '', vmm: vm?.logs.vmm.text().trim() ?? '' };
}

/** Of one that has ended. */
export function* chunksOf(logs: SandboxLogs): Generator<LogChunk, void> {
  for (const source of SOURCES) {
    if (logs[source] !== '') yield { source, text: logs[source], skippedBytes: 0 };
  }
}

interface FollowedSandbox {
  readonly id: string;
  readonly vm: Vm | undefined;
  info(): Pick<SandboxInfo, 'status'>;
}

/** Yields the kept text, then new text until the sandbox ends or `signal` aborts. */
export async function* followLogs(
  sandbox: FollowedSandbox,
  control: Pick<ControlPlane, 'onChange'>,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<LogChunk, void> {
  const news = new News(signal);
  const stop = control.onChange(({ id }) => {
    if (id === sandbox.id) news.tell();
  });
  let vm: Vm | undefined;
  let readers: readonly Reader[] = [];
  try {
    while (!signal.aborted) {
      news.clear();
      const [next, isOver] = [sandbox.vm, sandbox.info().status === 'ended'];
      const chunks = readers.flatMap((reader) => reader.read());
      if (chunks.length > 0) {
        yield* chunks;
        await wait(clock, FOLLOW_LIMITS.restMs, signal).catch((reason: unknown) =>
          ignore(reason, 'the loop ends by the signal'),
        );
      } else if (next !== undefined && next !== vm) {
        vm = next;
        for (const reader of readers) reader.close();
        readers = SOURCES.map((source) => new Reader(source, next.logs[source], news));
      } else if (isOver) {
        return;
      } else {
        await news.come();
      }
    }
  } finally {
    stop();
    news.close();
    for (const reader of readers) reader.close();
  }
}

/** One of the logs of one VM, from its beginning on. */
class Reader {
  readonly #source: LogChunk['source'];
  readonly #tail: LogTail;
  /** A character may be cut in two by the end of a chunk. */
  readonly #decoder = new StringDecoder('utf8');
  readonly close: () => void;
  #position = 0;

  constructor(source: LogChunk['source'], tail: LogTail, news: News) {
    this.#source = source;
    this.#tail = tail;
    this.close = tail.onWrite(() => news.tell());
  }

  read(): readonly LogChunk[] {
    const kept = this.#tail.after(this.#position);
    const skippedBytes = this.#tail.total - kept.length - this.#position;
    const bytes = kept.subarray(0, FOLLOW_LIMITS.chunkBytesMax);
    this.#position += skippedBytes + bytes.length;
    if (bytes.length === 0) return [];
    return [{ source: this.#source, text: this.#decoder.write(bytes), skippedBytes }];
  }
}

/** Whether something may have changed since it was last looked. */
class News {
  readonly #signal: AbortSignal;
  #isThere = false;
  #wake = (): void => undefined;
  readonly tell = (): void => {
    this.#isThere = true;
    this.#wake();
  };

  constructor(signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener('abort', this.tell);
  }

  clear(): void {
    this.#isThere = false;
  }

  async come(): Promise<void> {
    if (this.#isThere) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
  }

  close(): void {
    this.#signal.removeEventListener('abort', this.tell);
  }
}
