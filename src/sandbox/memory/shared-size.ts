/**
 * How much memory RAM that clones share will have. It begins with its data, and grows by the pages that were empty in the
 * template and that a clone is the first to touch.
 *
 *     data ─────────► bytes now ─────────► expected (data, what others like it grew by, and a quarter) ─ ─ ► the guest's RAM
 *                         └──── pending ────┘
 *
 * An estimate: what grows beyond it is the guard's business (`host-guard.ts`).
 */
import { MIB } from '../../base/units.ts';
import { cappedMean } from './clone-size.ts';

export interface SharedMemory {
  /** Of its content and its sharers. */
  readonly key: string;
  /** Memories of one content grow alike, as their guests begin alike. */
  readonly content: string;
  /** Of the data that it is filled with. */
  readonly dataBytes: number;
  /** The guest's RAM, the most that it can have. */
  readonly sizeBytes: number;
  /** Beyond its data. */
  readonly grownBytes: number;
}

export const SHARED_SIZE = {
  /** Even if all grew by less: a few MiB at birth, and the first program. */
  leastBytes: 32 * MIB,
  /** On what is known: it still grows. */
  margin: 1.25,
  /** Memories whose growth is remembered. */
  knownMax: 64,
} as const;

export class SharedSizes {
  /** By key, the most that it grew by; the latest last. */
  readonly #known = new Map<string, Pick<SharedMemory, 'content' | 'grownBytes'>>();

  /** Remembers what it grew by, also for when it is made again. */
  note({ key, content, grownBytes }: SharedMemory): void {
    const before = this.#known.get(key)?.grownBytes ?? 0;
    this.#known.delete(key);
    this.#known.set(key, { content, grownBytes: Math.max(before, grownBytes) });
    const [oldest] = this.#known.keys();
    if (this.#known.size > SHARED_SIZE.knownMax && oldest !== undefined) this.#known.delete(oldest);
  }

  /** The memory that it is expected to have. */
  expectedBytes({ key, content, dataBytes, sizeBytes, grownBytes }: SharedMemory): number {
    const alike = [...this.#known.values()].filter((one) => one.content === content);
    const own = Math.max(grownBytes, this.#known.get(key)?.grownBytes ?? 0);
    const known = Math.max(own, cappedMean(alike.map((one) => one.grownBytes)));
    const growth = Math.max(SHARED_SIZE.leastBytes, known * SHARED_SIZE.margin);
    return Math.min(sizeBytes, dataBytes + growth);
  }
}
