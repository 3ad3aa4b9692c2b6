/**
 * Inputs that reach something no smaller input reaches. An input reaches *features*: a branch with how often it ran (1,
 * 2, 3, 4–7, … as in AFL), or a comparison with how near it was to being equal.
 */
import { branches, closeness, counts, reached } from './probe.ts';

const BUCKETS = 8;
const BRANCH_FEATURES = branches.length * BUCKETS;
const COUNT_BUCKETS = new Uint8Array(256).map((_, count) => {
  if (count <= 3) return Math.max(0, count - 1);
  if (count <= 7) return 3;
  if (count <= 15) return 4;
  if (count <= 31) return 5;
  return count <= 127 ? 6 : 7;
});

export interface Entry {
  readonly bytes: Uint8Array;
  /** Features that no other entry has in as few bytes. */
  owned: number;
  /** Mutations made from it. */
  tries: number;
}

export class Corpus {
  readonly #countsBranchesOnly: boolean;
  readonly #owners: (Entry | undefined)[] = [];
  readonly #found: number[] = [];
  entries: Entry[] = [];
  features = 0;
  branches = 0;
  longest = 0;
  /** Inputs added so far, including replaced ones. */
  added = 0;
  readonly #seenBranches = new Uint8Array(branches.length);

  /** @param countsBranchesOnly ignores how near comparisons came: gives a smaller corpus */
  constructor(countsBranchesOnly = false) {
    this.#countsBranchesOnly = countsBranchesOnly;
  }

  /**
   * Reads the probe after a run.
   * @returns whether the input was added
   */
  add(bytes: Uint8Array): boolean {
    const found = this.#gains(bytes.length);
    if (found.length === 0) return false;
    const entry: Entry = { bytes: new Uint8Array(bytes), owned: found.length, tries: 0 };
    let hasEmptied = false;
    for (const feature of found) {
      const owner = this.#owners[feature];
      if (owner === undefined) this.features += 1;
      else {
        owner.owned -= 1;
        hasEmptied ||= owner.owned === 0;
      }
      this.#owners[feature] = entry;
    }
    if (hasEmptied) this.entries = this.entries.filter(({ owned }) => owned > 0);
    this.entries.push(entry);
    this.added += 1;
    this.longest = this.entries.reduce((most, each) => Math.max(most, each.bytes.length), 0);
    return true;
  }

  /** Without pinned inputs. */
  get found(): readonly Entry[] {
    return this.entries.filter(({ owned }) => owned !== Infinity);
  }

  /** Keeps an input whatever it reaches: a starting input of the target. */
  pin(bytes: Uint8Array): void {
    this.entries.push({ bytes: new Uint8Array(bytes), owned: Infinity, tries: 0 });
    this.longest = Math.max(this.longest, bytes.length);
  }

  /** Inputs added after the first `known`, if they still exist. */
  newest(known: number): readonly Uint8Array[] {
    const count = Math.min(this.added - known, this.entries.length);
    return count === 0 ? [] : this.entries.slice(-count).map(({ bytes }) => bytes);
  }

  /** Features of this run that are new, or for which all known inputs needed more bytes. */
  #gains(length: number): readonly number[] {
    const found = this.#found;
    found.length = 0;
    for (let branch = 0; branch < counts.branches; branch += 1) {
      const count = branches[branch] as number;
      if (count === 0) continue;
      const feature = branch * BUCKETS + (COUNT_BUCKETS[count] as number);
      const owner = this.#owners[feature];
      if (owner !== undefined && owner.bytes.length <= length) continue;
      found.push(feature);
      if (this.#seenBranches[branch] !== 0) continue;
      this.#seenBranches[branch] = 1;
      this.branches += 1;
    }
    if (this.#countsBranchesOnly) return found;
    for (const index of reached) {
      if (closeness[index] === 0) continue;
      const feature = BRANCH_FEATURES + index;
      const owner = this.#owners[feature];
      if (owner === undefined || owner.bytes.length > length) found.push(feature);
    }
    return found;
  }
}
