/**
 * Live logs of a sandbox: its console and its VMM's log, over all its VMs.
 *
 *     VM ── LogTail (the last bytes, counted) ──► followLogs ──► one reader, at its pace
 *
 * The VM never waits for a reader: bytes that left the tail before they were read are counted.
 */
import { StringDecoder } from 'node:string_decoder';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { wait } from '../../base/time-limit.ts';
import type { LogTail, Vm } from '../../machine/vmm/driver.ts';
import type { ControlPlane, LogChunk, SandboxInfo } from '../contract/control.ts';
import type { SandboxLogs } from '../contract/ending.ts';

export const FOLLOW_LIMITS = {
  chunkBytesMax: 16 * 1024,
  /** Pause after each chunk, so that a guest that floods its console does not use up a host CPU. */
  restMs: 25,
} as const;

const SOURCES = ['console', 'vmm'] as const;

export function logsOf(vm: Vm | undefined): SandboxLogs {
  return { console: vm?.consoleTail() ?? '', vmm: vm?.logs.vmm.text().trim() ?? '' };
}

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

/** Yields the kept text, then new text, until the sandbox ends or `signal` aborts. */
export async function* followLogs(
  sandbox: FollowedSandbox,
  control: Pick<ControlPlane, 'onChange'>,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<LogChunk, void> {
  const wakeup = new Wakeup(signal);
  const stop = control.onChange(({ id }) => {
    if (id === sandbox.id) wakeup.set();
  });
  let vm: Vm | undefined;
  let readers: readonly Reader[] = [];
  try {
    while (!signal.aborted) {
      wakeup.clear();
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
        readers = SOURCES.map((source) => new Reader(source, next.logs[source], wakeup));
      } else if (isOver) {
        return;
      } else {
        await wakeup.wait();
      }
    }
  } finally {
    stop();
    wakeup.close();
    for (const reader of readers) reader.close();
  }
}

class Reader {
  readonly #source: LogChunk['source'];
  readonly #tail: LogTail;
  /** A chunk may end within a character. */
  readonly #decoder = new StringDecoder('utf8');
  readonly close: () => void;
  #position = 0;

  constructor(source: LogChunk['source'], tail: LogTail, wakeup: Wakeup) {
    this.#source = source;
    this.#tail = tail;
    this.close = tail.onWrite(() => wakeup.set());
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

/** A flag that wakes its waiter. */
class Wakeup {
  readonly #signal: AbortSignal;
  #isSet = false;
  #wake = (): void => undefined;
  readonly set = (): void => {
    this.#isSet = true;
    this.#wake();
  };

  constructor(signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener('abort', this.set);
  }

  clear(): void {
    this.#isSet = false;
  }

  async wait(): Promise<void> {
    if (this.#isSet) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
  }

  close(): void {
    this.#signal.removeEventListener('abort', this.set);
  }
}
