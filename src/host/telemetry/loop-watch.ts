/**
 * Measures the turns of this process's event loop all the time, and asks what runs when one takes too long (I/O).
 *
 *     main thread: a timer beats every 40 ms ── late? its turn ─────────────► LongTurns
 *     a thread:    no beat for 50 ms ─► stack of the main thread ─► place ──► LongTurns
 *                  none for long ─► SIGKILL, where another daemon takes the VMs over
 *
 * A turn that starts between two beats is measured up to 40 ms too short.
 */
import { Worker } from 'node:worker_threads';
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { threadCpuMs } from '../../base/fairness/loop-time.ts';
import type { Log } from '../../base/log.ts';
import { modulePath } from '../../base/module-path.ts';
import { type LongTurns, type Sample, TURN_MS_MAX } from './long-turns.ts';

/** Wake-ups of both threads cost about 0.6 % of a processor (docs/benchmarks.md). */
const BEAT_MS = 40;
/** Heap of the thread, MiB. */
const HEAP_MIB_MAX = 32;

export interface WatchSetup {
  /** One Int32: the number of beats. */
  readonly shared: SharedArrayBuffer;
  readonly lateMs: number;
  /** Then the process is killed; infinite: never. */
  readonly hungMs: number;
}

/** Longer than any turn, also on a machine that swaps. */
export const HUNG_MS = 30_000;

export class LoopWatch {
  readonly #timer: NodeJS.Timeout;
  readonly #worker: Worker;

  /** @param clock the system's: samples have the same one. @param hungMs then this process is killed; default: never */
  constructor(turns: LongTurns, clock: Clock, log: Log, hungMs = Number.POSITIVE_INFINITY) {
    const shared = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
    const beats = new Int32Array(shared);
    let [lastMs, lastCpuMs] = [clock.now(), threadCpuMs()];
    this.#timer = setInterval(() => {
      const [endMs, cpuMs] = [clock.now(), threadCpuMs()];
      const lateMs = Math.max(0, endMs - lastMs - BEAT_MS);
      turns.note({ startMs: lastMs, endMs, lateMs, cpuMs: cpuMs - lastCpuMs, wallMs: clock.wall() });
      [lastMs, lastCpuMs] = [endMs, cpuMs];
      Atomics.add(beats, 0, 1);
      Atomics.notify(beats, 0);
    }, BEAT_MS);
    this.#timer.unref();
    const setup: WatchSetup = { shared, lateMs: TURN_MS_MAX, hungMs };
    this.#worker = new Worker(modulePath('./loop-watch-worker.ts', import.meta.url), {
      name: 'loop watch',
      workerData: setup,
      // A program of `node --input-type=module` would pass its options on.
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB_MAX },
    });
    this.#worker.on('message', (sample: Sample) => turns.sampled(sample));
    this.#worker.on('error', (error) => {
      log.warn('long turns of the event loop have no place from now on', { error: describeError(error) });
    });
    // Last, since listeners hold the process.
    this.#worker.unref();
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#worker.terminate();
  }
}
