/** Several models in engines of their own. When memory is short, those that nobody has used for longest are ended. */
import { statSync } from 'node:fs';
import { type Clock, systemClock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { MIB } from '../../base/units.ts';
import { availableMib } from '../../probes/host-memory.ts';

/** What the pool needs of an engine. */
export interface PooledEngine {
  readonly isStarted: boolean;
  /** Of its last request. */
  readonly askedAtMs: number;
  isIdle(): Promise<boolean>;
  stop(): Promise<void>;
}

/** A request that has just been given the engine's socket may not have reached it yet. */
const JUST_ASKED_MS = 10_000;
const RETIRED_LOOK_MS = 2_000;
/** Of a file's size: weights, and what is computed beside them. */
const SIZE_FACTOR = 1.2;
/** For the context, and for the host. */
const BESIDE_MIB = 512;

export class Engines {
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #available: () => number;
  readonly #engines = new Map<string, PooledEngine>();
  /** Left `models.toml`; they end when their last answers do. */
  readonly #retired = new Set<PooledEngine>();
  readonly #looks = new Set<() => void>();
  /** One after the other, so that two do not end engines for the same memory. */
  #turn: Promise<void> = Promise.resolve();

  constructor(log: Log, clock: Clock = systemClock, available: () => number = availableMib) {
    this.#log = log;
    this.#clock = clock;
    this.#available = available;
  }

  /** @param name of its upstream */
  add(name: string, engine: PooledEngine): void {
    this.#engines.set(name, engine);
  }

  /** Ends it once nobody uses it. */
  retire(name: string): void {
    const engine = this.#engines.get(name);
    this.#engines.delete(name);
    if (engine === undefined) return;
    this.#retired.add(engine);
    this.#endRetired(engine);
  }

  /** Ends idle engines, the longest unused first, until a model has room, or none is left to end. */
  async makeRoom(name: string, modelPath: string): Promise<void> {
    const turn = this.#turn.then(() => this.#makeRoom(name, modelPath));
    this.#turn = turn.catch((error: unknown) => ignore(error, 'told to who waits for room'));
    await turn;
  }

  async close(): Promise<void> {
    for (const cancel of this.#looks) cancel();
    await Promise.all([...this.#engines.values(), ...this.#retired].map((engine) => engine.stop()));
  }

  #endRetired(engine: PooledEngine): void {
    const cancel = this.#clock.after(RETIRED_LOOK_MS, () => {
      this.#looks.delete(cancel);
      void this.#mayEnd(engine).then(async (mayEnd) => {
        if (!mayEnd) return this.#endRetired(engine);
        await engine.stop();
        this.#retired.delete(engine);
      });
    });
    this.#looks.add(cancel);
  }

  async #mayEnd(engine: PooledEngine): Promise<boolean> {
    if (!engine.isStarted) return true;
    return this.#clock.now() - engine.askedAtMs >= JUST_ASKED_MS && (await engine.isIdle());
  }

  async #makeRoom(name: string, modelPath: string): Promise<void> {
    const needed = (sizeOf(modelPath) / MIB) * SIZE_FACTOR + BESIDE_MIB;
    const others = [...this.#engines]
      .filter(([other, { isStarted }]) => other !== name && isStarted)
      .sort(([, a], [, b]) => a.askedAtMs - b.askedAtMs);
    for (const [other, engine] of others) {
      if (this.#available() >= needed) return;
      if (!(await this.#mayEnd(engine))) continue;
      this.#log.info('an engine ends, since another one needs its memory', {
        upstream: other,
        for: name,
      });
      await engine.stop();
    }
  }
}

/** 0: the engine reports that it is missing. */
function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
