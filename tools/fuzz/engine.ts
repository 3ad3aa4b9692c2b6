/**
 * The loop of a coverage-guided fuzzer: picks an input that once reached something new, changes it a little, runs it,
 * and keeps it if it reaches something new again.
 */
import type { FuzzTarget } from '../../test/fuzz/target.ts';
import { Corpus, type Entry } from './corpus.ts';
import { Mutator, type Random } from './mutate.ts';
import { resetProbe } from './probe.ts';

const START_BYTES = 128;
const NOISE_INPUTS = 32;
const SHRINK_RUNS_MAX = 3000;

export interface Failure {
  readonly bytes: Uint8Array;
  readonly error: unknown;
}

export interface EngineOptions {
  readonly random: Random;
  readonly literals?: readonly (string | number)[];
  readonly countsBranchesOnly?: boolean;
  /** Called before each run, so that a hanging input can be identified. */
  readonly onRun?: (bytes: Uint8Array) => void;
}

export class Engine {
  readonly corpus: Corpus;
  readonly #target: FuzzTarget;
  readonly #mutator: Mutator;
  readonly #options: EngineOptions;
  executions = 0;

  constructor(target: FuzzTarget, options: EngineOptions) {
    this.#target = target;
    this.#options = options;
    this.corpus = new Corpus(options.countsBranchesOnly);
    this.#mutator = new Mutator(options.random, options.literals);
  }

  /** Runs given inputs: those of earlier runs, and the target's starting inputs. */
  async seed(inputs: Iterable<Uint8Array>): Promise<Failure | undefined> {
    for (const bytes of this.#target.seeds) this.corpus.pin(bytes);
    const started = this.#target.isStructured ? this.#noise() : [];
    for (const bytes of [new Uint8Array(), ...this.#target.seeds, ...started, ...inputs]) {
      const failure = await this.run(bytes.subarray(0, this.#target.maxBytes));
      if (failure !== undefined) return failure;
    }
    return undefined;
  }

  /** Random inputs of all sizes: small changes alone take long to reach code that needs many choices. */
  #noise(): readonly Uint8Array[] {
    return Array.from({ length: NOISE_INPUTS }, (_, at) => {
      const length = Math.ceil((this.#target.maxBytes * (at + 1)) / NOISE_INPUTS);
      return new Uint8Array(length).map(() => this.#mutator.below(256));
    });
  }

  /** Runs one changed input. Waits only for targets with promises. */
  step(): Promise<Failure | undefined> | Failure | undefined {
    const entry = this.#choose();
    const other = this.#choose();
    const cap = this.#mutator.below(8) === 0 ? Infinity : 2 * this.corpus.longest;
    const maxBytes = Math.min(this.#target.maxBytes, Math.max(START_BYTES, cap));
    entry.tries += 1;
    return this.run(this.#mutator.mutate(entry.bytes, other.bytes, maxBytes));
  }

  run(bytes: Uint8Array): Promise<Failure | undefined> | Failure | undefined {
    this.executions += 1;
    this.#options.onRun?.(bytes);
    resetProbe();
    try {
      const running = this.#target.check(bytes);
      if (running !== undefined) {
        return running.then(
          () => this.#keep(bytes),
          (error: unknown) => ({ bytes, error }),
        );
      }
    } catch (error) {
      return { bytes, error };
    }
    return this.#keep(bytes);
  }

  #keep(bytes: Uint8Array): undefined {
    this.corpus.add(bytes);
  }

  /** The less tried of two entries. */
  #choose(): Entry {
    const { entries } = this.corpus;
    const [a, b] = [0, 1].map(() => entries[this.#mutator.below(entries.length)]);
    if (a === undefined || b === undefined) return { bytes: new Uint8Array(), owned: 0, tries: 0 };
    return a.tries <= b.tries ? a : b;
  }

  /** Finds a shorter input that fails with the same message, ignoring numbers. */
  async shrink(failure: Failure): Promise<Failure> {
    const message = blurred(failure.error);
    let best = failure;
    let runs = 0;
    const tryOne = async (bytes: Uint8Array): Promise<boolean> => {
      runs += 1;
      const again = await this.run(bytes);
      if (again === undefined || blurred(again.error) !== message) return false;
      best = { bytes: new Uint8Array(bytes), error: again.error };
      return true;
    };
    for (let size = Math.ceil(best.bytes.length / 2); size >= 1; size = Math.floor(size / 2)) {
      for (let at = 0; at < best.bytes.length && runs < SHRINK_RUNS_MAX; ) {
        const rest = [...best.bytes.subarray(0, at), ...best.bytes.subarray(at + size)];
        if (!(await tryOne(Uint8Array.from(rest)))) at += size;
      }
    }
    return best;
  }
}

const blurred = (error: unknown): string =>
  String(error instanceof Error ? error.message : error)
    .replace(/\d+/g, '#')
    .slice(0, 200);
