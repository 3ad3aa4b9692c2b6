/** Runs one target in one or more threads: shares their findings, and ends a thread that hangs. */
import { Worker } from 'node:worker_threads';
import { type FromWorker, Inbox, type Job, type Progress, type ToWorker } from './messages.ts';

/** Default of `hangMs`: no check takes this long on a busy machine; the longest input takes milliseconds. */
const HANG_MS = 30_000;
const WATCH_MS = 1_000;
const HEAP_MIB = 1024;

export interface CampaignOptions {
  readonly name: string;
  readonly seed: number;
  readonly jobs: number;
  readonly timeMs: number;
  /** Per job. */
  readonly runs?: number;
  readonly countsBranchesOnly?: boolean;
  readonly inputs: readonly Uint8Array[];
  readonly signal: AbortSignal;
  /** Maximum time of one run. */
  readonly hangMs?: number;
  readonly onProgress?: (progress: Progress) => void;
  readonly onInput?: (bytes: Uint8Array) => void;
}

export interface Found {
  readonly bytes: Uint8Array;
  readonly reason: string;
  readonly meaning: string;
}

export interface CampaignResult {
  readonly progress: Progress;
  readonly found: Found | undefined;
  readonly inputs: readonly Uint8Array[];
}

const NONE: Progress = { executions: 0, ms: 0, inputs: 0, bytes: 0, features: 0, branches: 0 };

export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const states: Progress[] = Array.from({ length: options.jobs }, () => NONE);
  const threads: Thread[] = [];
  const stop = (): void => {
    for (const thread of threads) thread.tell({ kind: 'stop' });
  };
  for (let index = 0; index < options.jobs; index += 1) {
    const thread = new Thread(
      { ...options, seed: options.seed + index },
      {
        progress: (progress) => {
          states[index] = progress;
          options.onProgress?.(sum(states));
        },
        input: (bytes) => {
          options.onInput?.(bytes);
          for (const other of threads) if (other !== thread) other.tell({ kind: 'input', bytes });
        },
        failure: stop,
      },
    );
    threads.push(thread);
  }
  options.signal.addEventListener('abort', stop, { once: true });
  if (options.signal.aborted) stop();
  const results = await Promise.all(threads.map((thread) => thread.result));
  options.signal.removeEventListener('abort', stop);
  return {
    progress: sum(states),
    found: results.map(({ found }) => found).find((found) => found !== undefined),
    inputs: results.flatMap(({ inputs }) => inputs),
  };
}

/** Threads run beside each other: executions add up, coverage is the best thread's. */
function sum(states: readonly Progress[]): Progress {
  const most = (key: keyof Progress): number => Math.max(...states.map((each) => each[key]));
  return {
    executions: states.reduce((total, each) => total + each.executions, 0),
    ms: most('ms'),
    inputs: most('inputs'),
    bytes: most('bytes'),
    features: most('features'),
    branches: most('branches'),
  };
}

interface Listener {
  progress(progress: Progress): void;
  input(bytes: Uint8Array): void;
  failure(): void;
}

interface Outcome {
  readonly found?: Found;
  readonly inputs: readonly Uint8Array[];
}

class Thread {
  readonly #worker: Worker;
  readonly #current: Inbox;
  readonly result: Promise<Outcome>;
  /** The modules are loaded; inputs run. */
  #isReady = false;
  #loadError: string | undefined;
  #found: Found | undefined;
  #inputs: readonly Uint8Array[] = [];

  constructor(options: CampaignOptions, listener: Listener) {
    const memory = Inbox.allocate();
    const { name, seed, timeMs, runs = Infinity, inputs, countsBranchesOnly = false } = options;
    const job: Job = { name, seed, timeMs, runs, inputs, countsBranchesOnly, current: memory };
    this.#current = new Inbox(memory);
    this.#worker = new Worker(new URL('worker.ts', import.meta.url), {
      workerData: job,
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
    });
    this.result = new Promise((resolve, reject) => {
      const watch = this.#watch(listener, options.hangMs ?? HANG_MS);
      this.#worker.on('message', (message: FromWorker) => this.#take(message, listener));
      this.#worker.on('error', (error) => this.#fail(String(error.stack ?? error), listener));
      this.#worker.on('exit', () => {
        clearInterval(watch);
        if (this.#loadError !== undefined) {
          listener.failure();
          reject(new Error(`the target can't be loaded: ${this.#loadError}`));
          return;
        }
        resolve({ ...(this.#found === undefined ? {} : { found: this.#found }), inputs: this.#inputs });
      });
    });
  }

  tell(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  #take(message: FromWorker, listener: Listener): void {
    if (message.kind === 'ready') this.#isReady = true;
    else if (message.kind === 'progress') listener.progress(message.progress);
    else if (message.kind === 'input') listener.input(message.bytes);
    else if (message.kind === 'end') this.#inputs = message.inputs;
    else if (message.kind === 'failure') {
      this.#found = message;
      listener.failure();
    }
  }

  #fail(reason: string, listener: Listener): void {
    // No input is at fault when the modules can't be loaded.
    if (!this.#isReady) this.#loadError ??= reason;
    if (!this.#isReady) return;
    const bytes = this.#current.input;
    this.#found = { bytes, reason, meaning: `${bytes.length} bytes` };
    listener.failure();
  }

  #watch(listener: Listener, hangMs: number): NodeJS.Timeout {
    let turn = -1;
    let sinceMs = performance.now();
    return setInterval(() => {
      if (!this.#isReady || this.#current.turn !== turn) {
        turn = this.#current.turn;
        sinceMs = performance.now();
      } else if (performance.now() - sinceMs > hangMs) {
        this.#fail(`one run took more than ${hangMs / 1000} s`, listener);
        void this.#worker.terminate();
      }
    }, WATCH_MS);
  }
}
