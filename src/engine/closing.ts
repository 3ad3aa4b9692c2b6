/**
 * Ends an answer before its limit of tokens, so that JSON always parses: follows a grammar along with the answer, and
 * knows the shortest text that completes it. Before a token that leaves no room for that text, the text is written instead.
 * Pure. Reads the part of GBNF that `grammar.ts` writes.
 */

/** Readings of one ambiguous beginning. With more, the answer is not followed any further. */
const STATES_MAX = 4_096;
/** Steps to complete an answer, or to expand one state. */
const STEPS_MAX = 1_000_000;

type Node = { cost: number } & (
  | { readonly kind: 'empty' }
  | { readonly kind: 'char'; readonly matches: (code: number) => boolean; readonly sample: string }
  | { readonly kind: 'pair'; readonly head: Node; readonly tail: Node }
  | { readonly kind: 'either'; readonly options: readonly Node[] }
  | {
      readonly kind: 'repeat';
      readonly item: Node;
      readonly min: number;
      readonly max: number;
      rest: Node | null;
    }
  | { readonly kind: 'rule'; readonly name: string }
);

/** What must follow. Equal ones are the same object. */
interface Stack {
  readonly id: number;
  readonly node: Node;
  readonly rest: Stack | null;
  /** UTF-8 bytes of the shortest text that completes it. */
  readonly cost: number;
}

/** A parsed grammar; answers may share it. */
export class ClosableGrammar {
  readonly #rules: ReadonlyMap<string, Node>;

  /** @throws Error for GBNF that `grammar.ts` does not write */
  constructor(gbnf: string) {
    const nodes: Node[] = [];
    const rules = new Map<string, Node>();
    for (const line of gbnf.trimEnd().split('\n')) {
      const at = line.indexOf(' ::= ');
      rules.set(line.slice(0, at), new Parser(line.slice(at + 5), nodes).rule());
    }
    this.#rules = rules;
    for (let changed = true; changed; ) {
      changed = false;
      for (const node of nodes) {
        const cost = this.#cost(node);
        if (cost < node.cost) {
          node.cost = cost;
          changed = true;
        }
      }
    }
  }

  /** @throws Error if the rule does not exist */
  rule(name: string): Node {
    const rule = this.#rules.get(name);
    if (rule === undefined) throw new Error(`the grammar has no rule ${name}`);
    return rule;
  }

  #cost(node: Node): number {
    switch (node.kind) {
      case 'empty':
        return 0;
      case 'char':
        return Buffer.byteLength(node.sample);
      case 'pair':
        return node.head.cost + node.tail.cost;
      case 'either':
        return node.options.reduce((least, { cost }) => Math.min(least, cost), Infinity);
      case 'repeat':
        return node.min === 0 ? 0 : node.min * node.item.cost;
      case 'rule':
        return this.rule(node.name).cost;
    }
  }
}

/** All readings of the answer so far. */
export class GrammarState {
  readonly #grammar: ClosableGrammar;
  readonly #known = new Map<string, Stack>();
  /** `null`: the answer is complete. */
  #stacks: ReadonlySet<Stack | null>;

  constructor(grammar: ClosableGrammar) {
    this.#grammar = grammar;
    this.#stacks = this.#expand([this.#stack(grammar.rule('root'), null)]) ?? new Set();
  }

  /** Bytes of the shortest text that completes the answer. */
  get cost(): number {
    let least = Infinity;
    for (const stack of this.#stacks) least = Math.min(least, stack?.cost ?? 0);
    return least;
  }

  /** False, without a change, when no answer goes on like this, or too many readings do. */
  advance(text: string): boolean {
    let stacks = this.#stacks;
    for (const char of text) {
      const code = char.codePointAt(0) ?? 0;
      const next: (Stack | null)[] = [];
      for (const stack of stacks) {
        if (stack?.node.kind === 'char' && stack.node.matches(code)) next.push(stack.rest);
      }
      const expanded = this.#expand(next);
      if (expanded === null || expanded.size === 0) return false;
      stacks = expanded;
    }
    this.#stacks = stacks;
    return true;
  }

  mark(): ReadonlySet<Stack | null> {
    return this.#stacks;
  }

  reset(mark: ReadonlySet<Stack | null>): void {
    this.#stacks = mark;
  }

  /** The shortest text that completes the answer; null if it takes too many steps. */
  completion(): string | null {
    let stack: Stack | null | undefined;
    for (const one of this.#stacks) {
      if (stack === undefined || (one?.cost ?? 0) < (stack?.cost ?? 0)) stack = one;
    }
    if (stack === undefined || stack?.cost === Infinity) return null;
    let text = '';
    for (let steps = 0; stack !== null; steps++) {
      if (steps > STEPS_MAX) return null;
      const { node, rest }: Stack = stack;
      if (node.kind === 'char') {
        text += node.sample;
        stack = rest;
      } else {
        let best: Stack | null | undefined;
        for (const next of this.#step(node, rest)) {
          if (best === undefined || (next?.cost ?? 0) < (best?.cost ?? 0)) best = next;
        }
        stack = best ?? null;
      }
    }
    return text;
  }

  /** Stacks whose top is a character; null when there are too many. */
  #expand(stacks: readonly (Stack | null)[]): ReadonlySet<Stack | null> | null {
    const found = new Set<Stack | null>();
    const seen = new Set<Stack>();
    const open = stacks.toReversed();
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (next === null || next.node.kind === 'char') {
        found.add(next);
        if (found.size > STATES_MAX) return null;
      } else if (!seen.has(next)) {
        seen.add(next);
        if (seen.size > 16 * STATES_MAX) return null;
        open.push(...this.#step(next.node, next.rest).toReversed());
      }
    }
    return found;
  }

  #step(node: Exclude<Node, { kind: 'char' }>, rest: Stack | null): (Stack | null)[] {
    switch (node.kind) {
      case 'empty':
        return [rest];
      case 'pair':
        return [this.#stack(node.head, this.#push(node.tail, rest))];
      case 'either':
        return node.options.map((option) => this.#push(option, rest));
      case 'rule':
        return [this.#push(this.#grammar.rule(node.name), rest)];
      case 'repeat': {
        if (node.max === 0) return [rest];
        node.rest ??= node.min === 0 && node.max === Infinity ? node : lessOne(node);
        const once = this.#stack(node.item, this.#push(node.rest, rest));
        return node.min === 0 ? [rest, once] : [once];
      }
    }
  }

  #push(node: Node, rest: Stack | null): Stack | null {
    return node.kind === 'empty' ? rest : this.#stack(node, rest);
  }

  #stack(node: Node, rest: Stack | null): Stack {
    const key = `${idOf(node)}:${rest?.id ?? ''}`;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const stack = { id: this.#known.size, node, rest, cost: node.cost + (rest?.cost ?? 0) };
    this.#known.set(key, stack);
    return stack;
  }
}

const ids = new WeakMap<Node, number>();
let lastId = 0;
function idOf(node: Node): number {
  const known = ids.get(node);
  if (known !== undefined) return known;
  ids.set(node, ++lastId);
  return lastId;
}

function lessOne({ item, min, max }: Extract<Node, { kind: 'repeat' }>): Node {
  const less = Math.max(0, min - 1);
  const cost = less === 0 ? 0 : less * item.cost;
  return { kind: 'repeat', item, min: less, max: max - 1, rest: null, cost };
}

/** Decides for each token of an answer whether the answer can still be completed within its limit. */
export class Closer {
  readonly #state: GrammarState;
  readonly #countTokens: (text: string) => number;
  #isActive: boolean;
  #hasText = false;

  /** @param tokensMax limit of the answer; if its shortest form is longer, it is not followed */
  constructor(grammar: ClosableGrammar, countTokens: (text: string) => number, tokensMax: number) {
    this.#state = new GrammarState(grammar);
    this.#countTokens = countTokens;
    this.#isActive = this.#fits(tokensMax);
  }

  /**
   * @param text of the next token; empty while a character is incomplete
   * @param tokensLeft after that token
   * @returns null when the token may be written; else the text that completes the answer instead
   */
  accept(text: string, tokensLeft: number): string | null {
    if (!this.#isActive) return null;
    const before = this.#state.mark();
    if (!this.#advance(text)) {
      this.#isActive = false;
      return null;
    }
    if (this.#fits(tokensLeft)) return null;
    this.#state.reset(before);
    this.#isActive = false;
    return this.#state.completion();
  }

  #advance(text: string): boolean {
    const isFirst = !this.#hasText;
    this.#hasText ||= text !== '';
    // Some tokenizers omit the space at the beginning of a text.
    return this.#state.advance(text) || (isFirst && this.#state.advance(` ${text}`));
  }

  #fits(tokens: number): boolean {
    // A token has at least one byte.
    if (this.#state.cost <= tokens) return true;
    const text = this.#state.completion();
    return text !== null && this.#countTokens(text) <= tokens;
  }
}

/** One rule's body. */
class Parser {
  readonly #text: string;
  readonly #nodes: Node[];
  #at = 0;

  constructor(text: string, nodes: Node[]) {
    this.#text = text;
    this.#nodes = nodes;
  }

  rule(): Node {
    const node = this.#alternatives();
    if (this.#at < this.#text.length) throw this.#error();
    return node;
  }

  #alternatives(): Node {
    const options = [this.#sequence()];
    while (this.#take(/\| */y) !== null) options.push(this.#sequence());
    const [only] = options;
    return options.length === 1 && only !== undefined
      ? only
      : this.#add({ kind: 'either', options, cost: Infinity });
  }

  #sequence(): Node {
    const items: Node[] = [];
    while (this.#at < this.#text.length && !/[|)]/.test(this.#text[this.#at] ?? '')) {
      items.push(this.#repeated(this.#item()));
      this.#take(/ +/y);
    }
    return this.#chain(items);
  }

  #item(): Node {
    const literal = this.#take(/"((?:[^"\\]|\\.)*)"/y);
    if (literal !== null) {
      const chars = codes(literal[1] ?? '').map(({ code }) => this.#char([[code, code]], false));
      return this.#chain(chars);
    }
    const set = this.#take(/\[(\^?)((?:[^\]\\]|\\.)*)\]/y);
    if (set !== null) return this.#char(ranges(set[2] ?? ''), set[1] === '^');
    if (this.#take(/\( */y) !== null) {
      const node = this.#alternatives();
      if (this.#take(/\)/y) === null) throw this.#error();
      return node;
    }
    const name = this.#take(/[A-Za-z][\w-]*/y);
    if (name === null) throw this.#error();
    return this.#add({ kind: 'rule', name: name[0], cost: Infinity });
  }

  #repeated(item: Node): Node {
    const mark = this.#take(/([*?])|\{(\d+),(\d*)\}/y);
    if (mark === null) return item;
    const [, sign, least, most] = mark;
    const min = sign === undefined ? Number(least) : 0;
    const bounded = most === '' || most === undefined ? Infinity : Number(most);
    const max = sign === '?' ? 1 : bounded;
    return this.#add({ kind: 'repeat', item, min, max, rest: null, cost: Infinity });
  }

  #chain(items: readonly Node[]): Node {
    const last = items.at(-1) ?? this.#add({ kind: 'empty', cost: 0 });
    return items
      .slice(0, -1)
      .reduceRight((tail, head) => this.#add({ kind: 'pair', head, tail, cost: Infinity }), last);
  }

  #char(set: readonly Range[], isNegated: boolean): Node {
    const matches = (code: number): boolean =>
      set.some(([from, to]) => from <= code && code <= to) !== isNegated;
    const [first] = set;
    const known = isNegated || first === undefined ? ' .' : String.fromCodePoint(first[0]);
    const sample = [...known].find((char) => matches(char.codePointAt(0) ?? 0));
    if (sample === undefined) throw this.#error();
    return this.#add({ kind: 'char', matches, sample, cost: Infinity });
  }

  #add(node: Node): Node {
    this.#nodes.push(node);
    return node;
  }

  #take(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text);
    if (found !== null) this.#at = pattern.lastIndex;
    return found;
  }

  #error(): Error {
    return new Error(`can't read the grammar at ${this.#text.slice(this.#at, this.#at + 40)}`);
  }
}

type Range = readonly [from: number, to: number];

function ranges(text: string): Range[] {
  const found: Range[] = [];
  const chars = codes(text);
  for (let i = 0; i < chars.length; i++) {
    const from = chars[i]?.code ?? 0;
    const to = chars[i + 2];
    if (chars[i + 1]?.isDash === true && to !== undefined) {
      found.push([from, to.code]);
      i += 2;
    } else found.push([from, from]);
  }
  return found;
}

const ESCAPES: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' };

/** Code points, with escapes resolved; a dash that is not escaped may be a range. */
function codes(text: string): { code: number; isDash: boolean }[] {
  const matches = text.matchAll(/\\x([0-9a-fA-F]{2})|\\(.)|(.)/gsu);
  return [...matches].map(([, hex, escaped, plain]) => ({
    code:
      hex === undefined
        ? ((plain ?? ESCAPES[escaped ?? ''] ?? escaped)?.codePointAt(0) ?? 0)
        : Number.parseInt(hex, 16),
    isDash: plain === '-',
  }));
}
