/**
 * Answers of model servers by scope and key, in bounded memory. An answer is dropped when it expires or room is needed.
 * Pure.
 *
 *     scope a ──► key ─► answer, key ─► answer, …   the least recently used one goes first,
 *     scope b ──► key ─► answer                     out of the scope that holds most
 */
import type { Clock } from '../../../base/clock.ts';
import { KIB } from '../../../base/units.ts';

/** Approximate memory of an answer besides its bytes. */
export const ANSWER_OVERHEAD_BYTES = KIB;

const SWEEP_INTERVAL_MS = 60_000;

/** `null` for the operator. */
export type CacheScope = string | null;

export interface AnswerDraft<Value> {
  /** @returns false, permanently, if there is no room */
  grow(bytes: number): boolean;
  /** Ends the draft. Replaces the answer with the same key. */
  keep(key: string, value: Value, ttlMs: number): void;
  /** Ends the draft. Idempotent, also after `keep`. */
  drop(): void;
}

interface Entry<Value> {
  readonly value: Value;
  readonly bytes: number;
  readonly storedAtMs: number;
  readonly ttlMs: number;
}

interface Share<Value> {
  bytes: number;
  /** Least recently used first. */
  readonly entries: Map<string, Entry<Value>>;
  drafts: number;
}

export class AnswerStore<Value> {
  readonly #clock: Clock;
  readonly #bytesMax: number;
  readonly #shares = new Map<CacheScope, Share<Value>>();
  #bytes = 0;
  #stopSweep: (() => void) | undefined;

  constructor(clock: Clock, bytesMax: number) {
    this.#clock = clock;
    this.#bytesMax = bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get count(): number {
    return [...this.#shares.values()].reduce((sum, { entries }) => sum + entries.size, 0);
  }

  /** @param ageMsMax of the answer, which may expire earlier */
  get(scope: CacheScope, key: string, ageMsMax: number): Value | undefined {
    const share = this.#shares.get(scope);
    const entry = share?.entries.get(key);
    if (share === undefined || entry === undefined) return undefined;
    if (this.#isOver(entry)) {
      this.#remove(scope, share, key, entry);
      return undefined;
    }
    if (this.#clock.now() - entry.storedAtMs >= ageMsMax) return undefined;
    share.entries.delete(key);
    share.entries.set(key, entry);
    return entry.value;
  }

  begin(scope: CacheScope): AnswerDraft<Value> {
    const share = this.#shares.get(scope) ?? { bytes: 0, entries: new Map(), drafts: 0 };
    this.#shares.set(scope, share);
    share.drafts += 1;
    let held = 0;
    let isOpen = true;
    const drop = (): void => {
      if (!isOpen) return;
      isOpen = false;
      share.drafts -= 1;
      this.#release(scope, share, held);
    };
    const grow = (bytes: number): boolean => {
      if (!isOpen) return false;
      if (this.#makeRoom(scope, share, bytes)) {
        held += bytes;
        share.bytes += bytes;
        this.#bytes += bytes;
        return true;
      }
      drop();
      return false;
    };
    return {
      drop,
      grow,
      keep: (key, value, ttlMs) => {
        if (!grow(ANSWER_OVERHEAD_BYTES)) return;
        const before = share.entries.get(key);
        if (before !== undefined) this.#remove(scope, share, key, before);
        const storedAtMs = this.#clock.now();
        share.entries.set(key, { value, bytes: held, storedAtMs, ttlMs });
        // The answer holds these bytes now.
        held = 0;
        drop();
        this.#stopSweep ??= this.#clock.after(SWEEP_INTERVAL_MS, () => this.#sweep());
      },
    };
  }

  close(): void {
    this.#stopSweep?.();
    this.#shares.clear();
    this.#bytes = 0;
  }

  /** A clock that is set back must not make an answer last longer. */
  #isOver({ storedAtMs, ttlMs }: Entry<Value>): boolean {
    const ageMs = this.#clock.now() - storedAtMs;
    return ageMs < 0 || ageMs >= ttlMs;
  }

  #makeRoom(scope: CacheScope, asking: Share<Value>, bytes: number): boolean {
    if (bytes > this.#bytesMax) return false;
    while (this.#bytes + bytes > this.#bytesMax) {
      // If two scopes hold the same, the asking one loses an answer.
      let largest = [scope, asking] as const;
      let most = asking.bytes + bytes;
      for (const other of this.#shares) {
        if (other[1].bytes > most) [largest, most] = [other, other[1].bytes];
      }
      const [oldest] = largest[1].entries;
      if (oldest === undefined) return false;
      this.#remove(...largest, ...oldest);
    }
    return true;
  }

  #remove(scope: CacheScope, share: Share<Value>, key: string, { bytes }: Entry<Value>): void {
    share.entries.delete(key);
    this.#release(scope, share, bytes);
  }

  #release(scope: CacheScope, share: Share<Value>, bytes: number): void {
    share.bytes -= bytes;
    this.#bytes -= bytes;
    if (share.entries.size === 0 && share.drafts === 0) this.#shares.delete(scope);
  }

  /** Removes expired answers, which otherwise would keep their memory until they are requested again. */
  #sweep(): void {
    this.#stopSweep = undefined;
    for (const [scope, share] of this.#shares) {
      for (const [key, entry] of share.entries) {
        if (this.#isOver(entry)) this.#remove(scope, share, key, entry);
      }
    }
    if (this.count > 0) {
      this.#stopSweep = this.#clock.after(SWEEP_INTERVAL_MS, () => this.#sweep());
    }
  }
}
