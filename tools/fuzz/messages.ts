/** Messages between the main thread and a fuzzing thread. */

export interface Job {
  readonly name: string;
  readonly seed: number;
  readonly timeMs: number;
  readonly runs: number;
  readonly countsBranchesOnly: boolean;
  readonly inputs: readonly Uint8Array[];
  readonly current: SharedArrayBuffer;
}

export interface Progress {
  readonly executions: number;
  readonly ms: number;
  /** Size of the corpus: number of inputs, and their total bytes. */
  readonly inputs: number;
  readonly bytes: number;
  /** Branches with how often they ran, and how near comparisons came. */
  readonly features: number;
  readonly branches: number;
}

export type FromWorker =
  | { readonly kind: 'ready' }
  | { readonly kind: 'progress'; readonly progress: Progress }
  | { readonly kind: 'input'; readonly bytes: Uint8Array }
  | { readonly kind: 'failure'; readonly bytes: Uint8Array; readonly reason: string; readonly meaning: string }
  | { readonly kind: 'end'; readonly inputs: readonly Uint8Array[] };

export type ToWorker = { readonly kind: 'stop' } | { readonly kind: 'input'; readonly bytes: Uint8Array };

const HEADER_BYTES = 8;
const INBOX_BYTES = 1 << 16;

/** The input that a thread runs now, in shared memory. */
export class Inbox {
  readonly #header: Int32Array;
  readonly #bytes: Uint8Array;

  constructor(memory: SharedArrayBuffer) {
    this.#header = new Int32Array(memory, 0, 2);
    this.#bytes = new Uint8Array(memory, HEADER_BYTES);
  }

  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(HEADER_BYTES + INBOX_BYTES);
  }

  put(bytes: Uint8Array): void {
    const kept = bytes.length > this.#bytes.length ? bytes.subarray(0, this.#bytes.length) : bytes;
    this.#bytes.set(kept);
    this.#header[1] = kept.length;
    this.#header[0] = (this.#header[0] ?? 0) + 1;
  }

  /** Changes with every input. */
  get turn(): number {
    return Atomics.load(this.#header, 0);
  }

  get input(): Uint8Array {
    return this.#bytes.slice(0, Atomics.load(this.#header, 1));
  }
}
