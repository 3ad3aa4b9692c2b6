/**
 * Finds many texts at once in a stream, with each character in any spelling (Aho and Corasick, 1975). Built once for
 * the secrets of a host, and shared by its connections. Pure.
 *
 * The work per byte does not grow with the number of texts. A byte can stand for itself or end a spelling, so several
 * states can be active at once, which is rare and bounded.
 */
import { beginsSpelling, SPELLING_BYTES_MAX, type Spelling, spellingBefore } from './spelling.ts';

/** A base64 character with bits of the text and other bits. */
export interface Edge {
  /** Mask of the text's bits among its six. */
  readonly mask: number;
  readonly bits: number;
}

export interface Pattern {
  /** Visible ASCII. */
  readonly find: string;
  /** The replacement, cut or padded to the same number of bytes. */
  readonly put: string;
  /** In base64: the characters before and after that share bits with the text. */
  readonly before?: Edge | undefined;
  readonly after?: Edge | undefined;
  readonly alphabet?: 'base64' | 'base64url';
}

const STATES_MAX = 16;
/** Positions whose states are kept, since a spelling continues from its beginning. A power of two. */
const KEPT = 8;
const ROOT: readonly number[] = [0];

export class MatchState {
  readonly sets: (readonly number[])[] = Array.from({ length: KEPT }, () => ROOT);
  position = 0;
  /** The last position at which a spelling can begin. */
  marked = -SPELLING_BYTES_MAX;
  /** Positions since a match may have begun, up to `KEPT`. */
  quiet = KEPT;
}

export class Matcher {
  readonly patterns: readonly Pattern[];
  /** Longest match in bytes, with its edges, in any spelling. */
  readonly bytesMax: number;
  readonly #root = new Int32Array(256);
  /** Indexed by byte: 1 if a pattern or spelling begins with it. */
  readonly #begins = Uint8Array.from({ length: 256 }, (_, code) => (beginsSpelling(code) ? 1 : 0));
  readonly #code: number[] = [0];
  readonly #child: number[] = [0];
  readonly #sibling: number[] = [0];
  readonly #fail: number[] = [0];
  /** The pattern that ends in a state; -1 for none. */
  readonly #ends: number[] = [-1];
  /** The next shorter state in which a pattern ends; 0 for none. */
  readonly #shorter: number[] = [0];

  /** @param charactersMax at least the length of the longest pattern; decides how much is held back */
  constructor(patterns: readonly Pattern[], charactersMax: number) {
    this.patterns = patterns.filter(({ find }) => find.length > 0);
    this.bytesMax = charactersMax * SPELLING_BYTES_MAX + 2;
    this.patterns.forEach((pattern, index) => {
      let state = 0;
      for (const code of Buffer.from(pattern.find, 'latin1'))
        state = this.#childOf(state, code) || this.#grow(state, code);
      if ((this.#ends[state] ?? -1) < 0) this.#ends[state] = index;
    });
    this.#link();
  }

  /**
   * @param bytes preceded by earlier ones before `from`, for spellings that begin there
   * @param onFound gets the pattern and the offset in `bytes` after its last byte
   */
  scan(at: MatchState, bytes: Buffer, from: number, onFound: (pattern: Pattern, end: number) => void): void {
    const { sets } = at;
    for (let index = from; index < bytes.length; index += 1) {
      if (at.quiet === KEPT) {
        const begins = this.#beginsBefore(bytes, index);
        at.position += begins - index;
        index = begins;
        if (index === bytes.length) return;
      }
      const code = bytes[index] ?? 0;
      let next = this.#step(sets[at.position % KEPT] ?? ROOT, code);
      if (at.position - at.marked < SPELLING_BYTES_MAX) {
        const spelling = spellingBefore(bytes, index + 1);
        if (spelling !== undefined) {
          const start = (at.position + 1 - spelling.bytes + KEPT) % KEPT;
          next = union(next, this.#step(sets[start] ?? ROOT, spelling.code));
        }
      }
      if (beginsSpelling(code)) at.marked = at.position;
      const isQuiet = next === ROOT && at.position - at.marked >= SPELLING_BYTES_MAX;
      at.quiet = isQuiet ? Math.min(KEPT, at.quiet + 1) : 0;
      at.position += 1;
      sets[at.position % KEPT] = next;
      if (next !== ROOT) this.#tell(next, (pattern) => onFound(pattern, index + 1));
    }
  }

  /** Skips to where a match can begin: in most data, it can't. */
  #beginsBefore(bytes: Buffer, from: number): number {
    let index = from;
    while (index < bytes.length && this.#begins[bytes[index] ?? 0] === 0) index += 1;
    return index;
  }

  #tell(states: readonly number[], onFound: (pattern: Pattern) => void): void {
    for (const state of states) {
      const isEnd = (this.#ends[state] ?? -1) >= 0;
      for (let one = isEnd ? state : (this.#shorter[state] ?? 0); one !== 0; ) {
        const pattern = this.patterns[this.#ends[one] ?? -1];
        if (pattern !== undefined) onFound(pattern);
        one = this.#shorter[one] ?? 0;
      }
    }
  }

  #step(states: readonly number[], code: number): readonly number[] {
    if (states === ROOT) {
      const next = this.#root[code] ?? 0;
      return next === 0 ? ROOT : [next];
    }
    let out = ROOT;
    for (const state of states) {
      const next = this.#next(state, code);
      if (next !== 0) out = union(out, [next]);
    }
    return out;
  }

  #next(from: number, code: number): number {
    for (let state = from; ; state = this.#fail[state] ?? 0) {
      const next = this.#childOf(state, code);
      if (next !== 0 || state === 0) return next;
    }
  }

  #childOf(state: number, code: number): number {
    if (state === 0) return this.#root[code] ?? 0;
    let child = this.#child[state] ?? 0;
    while (child !== 0 && this.#code[child] !== code) child = this.#sibling[child] ?? 0;
    return child;
  }

  #grow(parent: number, code: number): number {
    const state = this.#code.length;
    this.#code.push(code);
    this.#child.push(0);
    this.#sibling.push(this.#child[parent] ?? 0);
    this.#fail.push(0);
    this.#ends.push(-1);
    this.#shorter.push(0);
    this.#child[parent] = state;
    if (parent === 0) {
      this.#root[code] = state;
      this.#begins[code] = 1;
    }
    return state;
  }

  /** Breadth first, since a state's failure state is shorter. */
  #link(): void {
    const queue = [0];
    for (const parent of queue) {
      for (let state = this.#child[parent] ?? 0; state !== 0; state = this.#sibling[state] ?? 0) {
        queue.push(state);
        if (parent === 0) continue;
        const fail = this.#next(this.#fail[parent] ?? 0, this.#code[state] ?? 0);
        this.#fail[state] = fail;
        this.#shorter[state] = (this.#ends[fail] ?? -1) >= 0 ? fail : (this.#shorter[fail] ?? 0);
      }
    }
  }
}

/** Start of a text that ends before `end`: the leftmost one, if its first character has two spellings. */
export function startOf(bytes: Buffer, end: number, find: string): number {
  let ends = [end];
  for (let index = find.length - 1; index >= 0; index -= 1) {
    const code = find.charCodeAt(index);
    const starts = new Set<number>();
    for (const one of ends) {
      if (bytes[one - 1] === code) starts.add(one - 1);
      const spelling: Spelling | undefined = spellingBefore(bytes, one);
      if (spelling?.code === code) starts.add(one - spelling.bytes);
    }
    ends = [...starts];
  }
  return Math.min(end, ...ends);
}

/** Every state falls back to the root. */
function union(some: readonly number[], more: readonly number[]): readonly number[] {
  if (some === ROOT) return more;
  if (more === ROOT) return some;
  const all = [...new Set([...some, ...more])];
  return all.length > STATES_MAX ? all.slice(0, STATES_MAX) : all;
}
