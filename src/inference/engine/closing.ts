/**
 * Ends an answer before its limit of tokens, so that JSON always parses: follows a grammar along with the answer, and
 * knows the shortest text that completes it. Before a token that leaves no room for that text, the text is written instead.
 * Pure.
 */
import { type ClosableGrammar, cheapest, NODES_MAX, type Node, repeatCost } from './closing-grammar.ts';

/**
 * Steps of about a microsecond: how many each token adds to an answer's allowance, and the allowance's maximum. Schemas
 * are hostile: an answer that needs more is not followed to its end.
 */
const TOKEN_STEPS = 1_000;
const STEPS_MAX = 10_000;
/** Cost of a step while writing a completion, which keeps nothing. */
const WALK_STEPS = 1 / 8;
/** Number of stacks above which unused ones are dropped. */
const STACKS_MAX = 16_384;
/**
 * Up to this size in bytes, the tokens of a completion are counted for each token of the answer. Above, they are
 * estimated.
 */
const COUNTED_BYTES_MAX = 1_000;
/** JSON has more: an answer with much to complete ends a little early. */
const BYTES_PER_TOKEN = 2;
/** Above all characters and repetitions of a grammar. */
const DONE_MAX = 2 ** 18;

/** What must follow. Equal ones are the same object. */
interface Stack {
  id: number;
  readonly node: Node;
  /** Number of UTF-16 code units of the node's text, or of repetitions, already written. */
  readonly done: number;
  readonly rest: Stack | null;
  /** UTF-8 bytes of the shortest text that completes it. */
  readonly cost: number;
}

/** All readings of the answer so far. */
export class GrammarState {
  readonly #grammar: ClosableGrammar;
  #known = new Map<number, Stack>();
  /** `null` in the set means that the answer is complete. */
  #stacks: ReadonlySet<Stack | null> = new Set();
  #stepsLeft = STEPS_MAX;
  #stepsTaken = 0;

  constructor(grammar: ClosableGrammar) {
    this.#grammar = grammar;
    if (!grammar.isFollowed) return;
    const root = this.#push(grammar.rule('root'), null);
    this.#stacks = this.#expand([root]) ?? this.#stacks;
  }

  /** Bytes of the shortest text that completes the answer; Infinity if it is not followed. */
  get cost(): number {
    return cheapest(this.#stacks)?.cost ?? (this.#stacks.has(null) ? 0 : Infinity);
  }

  /** Steps of all calls, and stacks kept for later ones. */
  get spent(): { readonly steps: number; readonly stacks: number } {
    return { steps: this.#stepsTaken, stacks: this.#known.size };
  }

  /** Returns false without a change if no answer continues this way, or finding out takes too many steps. */
  advance(text: string): boolean {
    this.#stepsLeft = Math.min(STEPS_MAX, this.#stepsLeft + TOKEN_STEPS);
    if (!this.#dropUnused()) return false;
    let stacks = this.#stacks;
    for (const char of text) {
      const next = this.#write(stacks, char.codePointAt(0) ?? 0);
      if (next === null || next.size === 0) return false;
      stacks = next;
    }
    this.#stacks = stacks;
    return true;
  }

  mark(): ReadonlySet<Stack | null> {
    return this.#stacks;
  }

  /** Also allows the steps for one completion. */
  reset(mark: ReadonlySet<Stack | null>): void {
    this.#stacks = mark;
    this.#stepsLeft = STEPS_MAX;
  }

  /** The shortest text that completes the answer; `null` if finding it takes too many steps. */
  completion(): string | null {
    if (this.#stacks.has(null)) return '';
    let stack = cheapest(this.#stacks) ?? null;
    // Counting its tokens takes a step for each byte.
    if (stack === null || !this.#take(stack.cost)) return null;
    let text = '';
    for (; stack !== null; stack = stack.rest) {
      const rest = this.#shortest(stack.node, stack.done);
      if (rest === null) return null;
      text += rest;
    }
    return text;
  }

  /** The rest of the shortest text of `node` after `done`. */
  #shortest(node: Node, done: number): string | null {
    let text = '';
    const open = [node];
    for (let next = open.pop(), from = done; next !== undefined; next = open.pop(), from = 0) {
      if (!this.#take(WALK_STEPS)) return null;
      if (next.kind === 'char') text += next.sample;
      else if (next.kind === 'text') text += next.text.slice(from);
      else if (next.kind === 'pair') open.push(next.tail, next.head);
      else if (next.kind === 'rule') open.push(this.#grammar.rule(next.name));
      else if (next.kind === 'either') {
        const best = cheapest(next.options);
        if (best === undefined || !this.#take(next.options.length * WALK_STEPS)) return null;
        open.push(best);
      } else if (next.kind === 'repeat') {
        for (let i = from; i < next.min; i++) open.push(next.item);
      }
    }
    return text;
  }

  /** Returns false if the answer does not have that many steps left. */
  #take(steps: number): boolean {
    if (steps > this.#stepsLeft) return false;
    this.#stepsLeft -= steps;
    this.#stepsTaken += steps;
    return true;
  }

  /** The readings after one more character; `null` if finding them takes too many steps. */
  #write(stacks: ReadonlySet<Stack | null>, code: number): ReadonlySet<Stack | null> | null {
    if (!this.#take(stacks.size)) return null;
    const next: (Stack | null)[] = [];
    for (const stack of stacks) {
      if (stack?.node.kind === 'char' && stack.node.matches(code)) next.push(stack.rest);
      else if (stack?.node.kind === 'text' && stack.node.text.codePointAt(stack.done) === code) {
        const { node, rest } = stack;
        const done = stack.done + (code > 0xffff ? 2 : 1);
        const isLast = done === stack.node.text.length;
        next.push(isLast ? rest : this.#stack(node, done, rest, stack.cost - bytes(code)));
      }
    }
    return this.#expand(next);
  }

  /** Expands stacks until a character is on top; `null` if it takes too many steps. */
  #expand(stacks: readonly (Stack | null)[]): ReadonlySet<Stack | null> | null {
    const found = new Set<Stack | null>();
    const seen = new Set<Stack>();
    const open = stacks.toReversed();
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (!this.#take(1)) return null;
      if (next === null || next.node.kind === 'char' || next.node.kind === 'text') found.add(next);
      else if (!seen.has(next)) {
        seen.add(next);
        if (next.node.kind === 'either' && !this.#take(next.node.options.length)) return null;
        open.push(...this.#step(next).toReversed());
      }
    }
    return found;
  }

  #step({ node, done, rest }: Stack): (Stack | null)[] {
    switch (node.kind) {
      case 'pair':
        return [this.#push(node.head, this.#push(node.tail, rest))];
      case 'either':
        return node.options.map((option) => this.#push(option, rest));
      case 'rule':
        return [this.#push(this.#grammar.rule(node.name), rest)];
      case 'repeat': {
        if (done === node.max) return [rest];
        // Without a maximum, all repetitions beyond the minimum are equivalent.
        const count = node.max === Infinity ? Math.min(done + 1, node.min) : done + 1;
        const again = this.#stack(node, count, rest, restCost(repeatCost(node.item, node.min - count), rest));
        const once = this.#push(node.item, again);
        return done < node.min ? [once] : [rest, once];
      }
      default:
        return [rest];
    }
  }

  #push(node: Node, rest: Stack | null): Stack | null {
    return node.kind === 'empty' ? rest : this.#stack(node, 0, rest, restCost(node.cost, rest));
  }

  #stack(node: Node, done: number, rest: Stack | null, cost: number): Stack {
    const key = keyOf(node, done, rest);
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const stack = { id: this.#known.size, node, done, rest, cost };
    this.#known.set(key, stack);
    return stack;
  }

  /** If there are many stacks, keeps those of the current readings; returns false if even these are too many. */
  #dropUnused(): boolean {
    if (this.#known.size <= STACKS_MAX) return true;
    const used = new Set<Stack>();
    for (let stack of this.#stacks) {
      for (; stack !== null && !used.has(stack); stack = stack.rest) used.add(stack);
    }
    if (used.size > STACKS_MAX / 2) return false;
    this.#known = new Map();
    // Each stack is younger than its rest.
    for (const stack of [...used].sort((a, b) => a.id - b.id)) {
      stack.id = this.#known.size;
      this.#known.set(keyOf(stack.node, stack.done, stack.rest), stack);
    }
    return true;
  }
}

/** Below 2⁵³: an answer has fewer than 2¹⁶ stacks. */
function keyOf(node: Node, done: number, rest: Stack | null): number {
  return ((rest === null ? 0 : rest.id + 1) * NODES_MAX + node.id) * DONE_MAX + done;
}

const restCost = (cost: number, rest: Stack | null): number => cost + (rest?.cost ?? 0);
/** UTF-8 bytes of a character. */
function bytes(code: number): number {
  if (code < 0x80) return 1;
  if (code < 0x800) return 2;
  return code < 0x1_0000 ? 3 : 4;
}

/** Decides for each token whether the answer can still be completed within its limit. */
export class Closer {
  readonly #state: GrammarState;
  readonly #countTokens: (text: string) => number;
  #isActive: boolean;
  #hasText = false;

  /** @param tokensMax limit of the answer; if even its shortest form is longer, it is not followed */
  constructor(grammar: ClosableGrammar, countTokens: (text: string) => number, tokensMax: number) {
    this.#state = new GrammarState(grammar);
    this.#countTokens = countTokens;
    this.#isActive = this.#fits(tokensMax) === true;
  }

  /**
   * @param text of the next token; empty while a character is incomplete
   * @param tokensLeft after that token
   * @returns `null` if the token may be written, else the text that completes the answer instead
   */
  accept(text: string, tokensLeft: number): string | null {
    if (!this.#isActive) return null;
    const before = this.#state.mark();
    if (!this.#advance(text)) {
      this.#isActive = false;
      return null;
    }
    const fits = this.#fits(tokensLeft);
    if (fits === true) return null;
    this.#isActive = false;
    if (fits === null) return null;
    this.#state.reset(before);
    const end = this.#state.completion();
    // The cost may have been an estimate.
    return end !== null && this.#countTokens(end) <= tokensLeft + 1 ? end : null;
  }

  #advance(text: string): boolean {
    const isFirst = !this.#hasText;
    this.#hasText ||= text !== '';
    // Some tokenizers omit the space at the beginning of a text.
    return this.#state.advance(text) || (isFirst && this.#state.advance(` ${text}`));
  }

  /** `null` if finding out takes too many steps. */
  #fits(tokens: number): boolean | null {
    const { cost } = this.#state;
    // A token has at least one byte.
    if (cost <= tokens) return true;
    if (cost > COUNTED_BYTES_MAX) return cost <= BYTES_PER_TOKEN * tokens;
    const text = this.#state.completion();
    return text === null ? null : this.#countTokens(text) <= tokens;
  }
}
