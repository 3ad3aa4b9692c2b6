/**
 * Answers that the bridge keeps for one sandbox, so that later requests can continue their conversations. Kept in
 * memory while the sandbox's VM runs, and bounded: the oldest are dropped for new ones. Pure.
 *
 *     answer a ──► [question, answer]
 *     answer b ──► [question, answer] ──► those of a, even after a is dropped
 */
import type { FairShare, FairShareLimits, Hold } from '../../base/fairness/fair-share.ts';
import { KIB, MIB } from '../../base/units.ts';

/** Memory in bytes for all sandboxes. */
export const KEPT_MEMORY: FairShareLimits = { sumMax: 256 * MIB, ownMax: 16 * MIB, guaranteed: MIB, places: 128 };
/** Limit per sandbox. */
export const KEPT_ANSWERS_MAX = 1000;
/** Overhead of the objects around the texts. */
const ITEM_BYTES = 256;
const SEGMENT_BYTES = KIB;

/** A message, a call or its result, in the form of the caller's API. */
export interface KeptItem {
  readonly id: string;
  readonly json: string;
}

export interface KeptAnswer {
  readonly json: string;
  readonly inputs: readonly KeptItem[];
}

/** The items that one request and its answer add to a conversation. */
interface Segment {
  readonly parent: Segment | undefined;
  readonly inputs: readonly KeptItem[];
  outputs: readonly KeptItem[];
  readonly hold: Hold;
  /** Number of answers, drafts and segments that need it. */
  users: number;
}

interface Entry {
  readonly segment: Segment;
  readonly json: string;
}

export interface KeptDraft {
  /** Ends the draft. Without enough memory, the answer isn't kept. */
  keep(id: string, json: string, outputs: readonly KeptItem[]): void;
  /** Releases the memory unless the answer is kept. Idempotent. */
  end(): void;
}

export class KeptAnswers {
  readonly #memory: FairShare;
  readonly #sandboxId: string;
  /** Oldest first. */
  readonly #entries = new Map<string, Entry>();
  readonly #items = new Map<string, KeptItem>();
  #closed = false;

  /** @param memory for all sandboxes, in bytes */
  constructor(memory: FairShare, sandboxId: string) {
    this.#memory = memory;
    this.#sandboxId = sandboxId;
  }

  get size(): number {
    return this.#entries.size;
  }

  get(id: string): KeptAnswer | undefined {
    const entry = this.#entries.get(id);
    if (entry === undefined) return undefined;
    const { segment, json } = entry;
    return { json, inputs: [...conversationOf(segment.parent), ...segment.inputs] };
  }

  /** All items up to the end of an answer; undefined if it isn't kept. */
  conversation(id: string): readonly KeptItem[] | undefined {
    const entry = this.#entries.get(id);
    return entry && conversationOf(entry.segment);
  }

  item(id: string): KeptItem | undefined {
    return this.#items.get(id);
  }

  /** Answers that continue the deleted one keep its items. @returns false if it isn't kept */
  delete(id: string): boolean {
    const entry = this.#entries.get(id);
    if (entry === undefined) return false;
    this.#entries.delete(id);
    this.#release(entry.segment);
    return true;
  }

  /**
   * Reserves memory for an answer and for what its request adds.
   * @param previous id of the answer that it continues
   * @returns undefined if there is no memory left
   */
  begin(previous: string | undefined, inputs: readonly KeptItem[]): KeptDraft | undefined {
    const parent = previous === undefined ? undefined : this.#entries.get(previous)?.segment;
    if (this.#closed || (previous !== undefined && parent === undefined)) return undefined;
    // Must precede dropping others, so that `parent` stays.
    if (parent !== undefined) parent.users += 1;
    const hold = this.#take(SEGMENT_BYTES + bytesOf(inputs));
    if (hold === undefined) {
      if (parent !== undefined) this.#release(parent);
      return undefined;
    }
    const segment: Segment = { parent, inputs, outputs: [], hold, users: 1 };
    for (const item of inputs) this.#items.set(item.id, item);
    let isOpen = true;
    const end = (): void => {
      if (isOpen) this.#release(segment);
      isOpen = false;
    };
    return {
      keep: (id, json, outputs) => {
        if (!isOpen || this.#closed) return;
        if (!this.#grow(hold, 2 * json.length + bytesOf(outputs))) return end();
        isOpen = false;
        segment.outputs = outputs;
        for (const item of outputs) this.#items.set(item.id, item);
        this.#entries.set(id, { segment, json });
        while (this.#entries.size > KEPT_ANSWERS_MAX) this.#dropOldest();
      },
      end,
    };
  }

  /** Releases everything; nothing is kept from now on. */
  close(): void {
    this.#closed = true;
    while (this.#dropOldest());
  }

  #take(bytes: number): Hold | undefined {
    for (;;) {
      const hold = this.#memory.take(this.#sandboxId, bytes);
      if (hold !== undefined || !this.#dropOldest()) return hold;
    }
  }

  #grow(hold: Hold, bytes: number): boolean {
    while (!hold.resize(hold.amount + bytes)) if (!this.#dropOldest()) return false;
    return true;
  }

  #dropOldest(): boolean {
    const [oldest] = this.#entries.keys();
    return oldest !== undefined && this.delete(oldest);
  }

  #release(segment: Segment): void {
    let current: Segment | undefined = segment;
    while (current !== undefined) {
      current.users -= 1;
      if (current.users > 0) return;
      current.hold.release();
      for (const item of [...current.inputs, ...current.outputs]) {
        // A later item may have the same id.
        if (this.#items.get(item.id) === item) this.#items.delete(item.id);
      }
      current = current.parent;
    }
  }
}

function conversationOf(last: Segment | undefined): readonly KeptItem[] {
  const segments: Segment[] = [];
  for (let one = last; one !== undefined; one = one.parent) segments.push(one);
  return segments.reverse().flatMap(({ inputs, outputs }) => [...inputs, ...outputs]);
}

/** Gives each item to keep an id. @param answerId random id of the answer to them */
export function namedItems(
  items: readonly { readonly id: string | undefined; readonly json: string }[],
  answerId: string,
): readonly KeptItem[] {
  return items.map(({ id: given, json }, i) => {
    if (given !== undefined) return { id: given, json };
    const id = `item_${answerId}_${i}`;
    return { id, json: `{"id":${JSON.stringify(id)},${json.slice(1)}` };
  });
}

/** A character takes at most two bytes. */
function bytesOf(items: readonly KeptItem[]): number {
  return items.reduce((sum, { id, json }) => sum + ITEM_BYTES + 2 * (id.length + json.length), 0);
}
