/**
 * How much memory the RAM that clones share will use. It starts with the data, and grows by pages that were empty in the
 * template when a clone first touches them.
 *
 *     data ─────────► bytes now ─────────► expected (data, growth of similar memories, and a quarter) ─ ─ ► the guest's RAM
 *                         └──── pending ────┘
 *
 * Growth beyond the estimate is left to the guard (`host-guard.ts`).
 */
import { MIB } from '../../base/units.ts';
import { cappedMean } from './clone-size.ts';

export interface SharedMemory {
  /** Identifies the content and its sharing group. */
  readonly key: string;
  /** Memories of the same content grow alike, since their guests start alike. */
  readonly content: string;
  /** Size of the data that it is filled with. */
  readonly dataBytes: number;
  /** The guest's RAM, which is the maximum. */
  readonly sizeBytes: number;
  /** Growth beyond its data. */
  readonly grownBytes: number;
}

export const SHARED_SIZE = {
  /** Minimum expected growth: a few MiB at birth, and the first program. */
  leastBytes: 32 * MIB,
  /** Factor on known growth: it continues. */
  margin: 1.25,
  /** Number of memories whose growth is remembered. */
  knownMax: 64,
} as const;

export class SharedSizes {
  /** Maximum growth by key; the most recent last. */
  readonly #known = new Map<string, Pick<SharedMemory, 'content' | 'grownBytes'>>();

  /** Remembers the growth, also for when the memory is created again. */
  note({ key, content, grownBytes }: SharedMemory): void {
    const before = this.#known.get(key)?.grownBytes ?? 0;
    this.#known.delete(key);
    this.#known.set(key, { content, grownBytes: Math.max(before, grownBytes) });
    const [oldest] = this.#known.keys();
    if (this.#known.size > SHARED_SIZE.knownMax && oldest !== undefined) this.#known.delete(oldest);
  }

  expectedBytes({ key, content, dataBytes, sizeBytes, grownBytes }: SharedMemory): number {
    const alike = [...this.#known.values()].filter((one) => one.content === content);
    const own = Math.max(grownBytes, this.#known.get(key)?.grownBytes ?? 0);
    const known = Math.max(own, cappedMean(alike.map((one) => one.grownBytes)));
    const growth = Math.max(SHARED_SIZE.leastBytes, known * SHARED_SIZE.margin);
    return Math.min(sizeBytes, dataBytes + growth);
  }
}
