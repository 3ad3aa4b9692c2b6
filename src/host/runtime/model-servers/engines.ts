/**
 * Several models in engines of their own. When memory is short, idle engines are ended, the least recently used first.
 */
import { statSync } from 'node:fs';
import { type Clock, systemClock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import { MIB } from '../../../base/units.ts';
import { availableMib } from '../../probes/host-memory.ts';

export interface PooledEngine {
  readonly isStarted: boolean;
  readonly askedAtMs: number;
  /** Never waits for a start. */
  isIdle(): Promise<boolean>;
  stop(): Promise<void>;
}

/** A request that has just been given the engine's socket may not have reached it yet. */
const JUST_ASKED_MS = 10_000;
const RETIRED_LOOK_MS = 2_000;
/** Factor on a file's size: weights, and data computed beside them. */
const SIZE_FACTOR = 1.2;
/** For the context, and for the host. */
const BESIDE_MIB = 512;

export class Engines {
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #available: () => number;
  readonly #engines = new Map<string, PooledEngine>();
  /** Removed from `models.toml`; they end when their last answers do. */
  readonly #retired = new Set<PooledEngine>();
  readonly #looks = new Set<() => void>();
  /** MiB promised to starts that have not taken their memory yet. */
  readonly #promised = new Set<{ readonly mib: number }>();
  /** Only one start at a time looks for room. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(log: Log, clock: Clock = systemClock, available: () => number = availableMib) {
    this.#log = log;
    this.#clock = clock;
    this.#available = available;
  }

  /** @param name name of its upstream */
  add(name: string, engine: PooledEngine): void {
    this.#engines.set(name, engine);
  }

  retire(name: string): void {
    const engine = this.#engines.get(name);
    this.#engines.delete(name);
    if (engine === undefined) return;
    this.#retired.add(engine);
    this.#endRetired(engine);
  }

  /**
   * Ends idle engines, the least recently used first, until a model has room, or none is left to end. Call the returned
   * function once the model has taken its memory, or never will.
   */
  async makeRoom(name: string, modelPath: string): Promise<() => void> {
    const turn = this.#turn.then(() => this.#makeRoom(name, modelPath));
    this.#turn = turn.catch((error: unknown) => ignore(error, 'told to who waits for room'));
    return await turn;
  }

  async close(): Promise<void> {
    for (const cancel of this.#looks) cancel();
    await Promise.all([...this.#engines.values(), ...this.#retired].map((engine) => engine.stop()));
  }

  #endRetired(engine: PooledEngine): void {
    const cancel = this.#clock.after(RETIRED_LOOK_MS, () => {
      this.#looks.delete(cancel);
      const look = async (): Promise<void> => {
        if (!(await this.#mayEnd(engine))) return this.#endRetired(engine);
        await engine.stop();
        this.#retired.delete(engine);
      };
      look().catch((error: unknown) => {
        this.#log.warn('could not end an engine', { error: describeError(error) });
      });
    });
    this.#looks.add(cancel);
  }

  async #mayEnd(engine: PooledEngine): Promise<boolean> {
    if (this.#clock.now() - engine.askedAtMs < JUST_ASKED_MS) return false;
    return !engine.isStarted || (await engine.isIdle());
  }

  async #makeRoom(name: string, modelPath: string): Promise<() => void> {
    const own = (sizeOf(modelPath) / MIB) * SIZE_FACTOR + BESIDE_MIB;
    const needed = own + [...this.#promised].reduce((sum, { mib }) => sum + mib, 0);
    const others = [...this.#engines, ...[...this.#retired].map((one) => [null, one] as const)]
      .filter(([other, { isStarted }]) => other !== name && isStarted)
      .sort(([, a], [, b]) => a.askedAtMs - b.askedAtMs);
    for (const [other, engine] of others) {
      if (this.#available() >= needed) break;
      if (!(await this.#mayEnd(engine))) continue;
      this.#log.info('an engine ends, since another one needs its memory', { upstream: other, for: name });
      await engine.stop();
    }
    return this.#promise(own);
  }

  #promise(mib: number): () => void {
    // Equal numbers are different promises.
    const promise = { mib };
    this.#promised.add(promise);
    return () => this.#promised.delete(promise);
  }
}

/** 0 if the file is missing; the engine reports that. */
function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
