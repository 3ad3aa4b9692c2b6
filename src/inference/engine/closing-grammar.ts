/**
 * A grammar whose answers can be completed: its parts, each with the bytes of its shortest text. Reads the part of GBNF
 * that `grammar.ts` writes.
 */

/** Characters and parts of a grammar. Answers to a larger one are not followed. */
const CHARACTERS_MAX = 128 * 1024;

export const NODES_MAX = 16_000;

/** Visits of parts to find the shortest texts of all. */
const VISITS_MAX = 100_000;

export type Node = { readonly id: number; cost: number } & (
  | { readonly kind: 'empty' }
  | { readonly kind: 'char'; readonly matches: (code: number) => boolean; readonly sample: string }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'pair'; readonly head: Node; readonly tail: Node }
  | { readonly kind: 'either'; readonly options: readonly Node[] }
  | { readonly kind: 'repeat'; readonly item: Node; readonly min: number; readonly max: number }
  | { readonly kind: 'rule'; readonly name: string }
);

type Part = Node extends infer One ? (One extends Node ? Omit<One, 'id' | 'cost'> : never) : never;

class TooLargeError extends Error {}

/** A parsed grammar; answers may share it. */
export class ClosableGrammar {
  readonly #rules = new Map<string, Node>();
  /** False: answers are not followed. */
  readonly isFollowed: boolean;

  /** @throws Error for GBNF that `grammar.ts` does not write */
  constructor(gbnf: string) {
    this.isFollowed = gbnf.length <= CHARACTERS_MAX && this.#parse(gbnf);
    if (!this.isFollowed) this.#rules.clear();
  }

  #parse(gbnf: string): boolean {
    const nodes: Node[] = [];
    try {
      for (const line of gbnf.trimEnd().split('\n')) {
        const at = line.indexOf(' ::= ');
        this.#rules.set(line.slice(0, at), new Parser(line.slice(at + 5), nodes).rule());
      }
    } catch (error) {
      if (!(error instanceof TooLargeError)) throw error;
      return false;
    }
    return this.#setCosts(nodes);
  }

  /** @throws Error if the rule does not exist */
  rule(name: string): Node {
    const rule = this.#rules.get(name);
    if (rule === undefined) throw new Error(`the grammar has no rule ${name}`);
    return rule;
  }

  #setCosts(nodes: readonly Node[]): boolean {
    let changed = true;
    for (let visits = 0; changed; visits += nodes.length) {
      if (visits > VISITS_MAX) return false;
      changed = false;
      for (const node of nodes) {
        const cost = this.#cost(node);
        if (cost < node.cost) {
          node.cost = cost;
          changed = true;
        }
      }
    }
    return true;
  }

  #cost(node: Node): number {
    switch (node.kind) {
      case 'empty':
        return 0;
      case 'char':
        return Buffer.byteLength(node.sample);
      case 'text':
        // Set by the parser, since it takes as long as the text.
        return node.cost;
      case 'pair':
        return node.head.cost + node.tail.cost;
      case 'either':
        return cheapest(node.options)?.cost ?? Infinity;
      case 'repeat':
        return repeatCost(node.item, node.min);
      case 'rule':
        return this.rule(node.name).cost;
    }
  }
}

export const repeatCost = (item: Node, times: number): number => (times <= 0 ? 0 : times * item.cost);

/** The first one of those with the least cost. */
export function cheapest<T extends { readonly cost: number }>(ones: Iterable<T | null>): T | undefined {
  let best: T | undefined;
  for (const one of ones) {
    if (one !== null && (best === undefined || one.cost < best.cost)) best = one;
  }
  return best;
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
    return options.length === 1 && only !== undefined ? only : this.#add({ kind: 'either', options });
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
    const literal = this.#take(/"([^"\\]*(?:\\.[^"\\]*)*)"/y);
    if (literal !== null) return this.#literal(resolveEscapes(literal[1] ?? ''));
    const set = this.#take(/\[(\^?)((?:[^\]\\]|\\.)*)\]/y);
    if (set !== null) return this.#char(ranges(set[2] ?? ''), set[1] === '^');
    if (this.#take(/\( */y) !== null) {
      const node = this.#alternatives();
      if (this.#take(/\)/y) === null) throw this.#error();
      return node;
    }
    const name = this.#take(/[A-Za-z][\w-]*/y);
    if (name === null) throw this.#error();
    return this.#add({ kind: 'rule', name: name[0] });
  }

  #repeated(item: Node): Node {
    const mark = this.#take(/([*?])|\{(\d+),(\d*)\}/y);
    if (mark === null) return item;
    const [, sign, least, most] = mark;
    const min = sign === undefined ? Number(least) : 0;
    const bounded = most === '' || most === undefined ? Infinity : Number(most);
    const max = sign === '?' ? 1 : bounded;
    return this.#add({ kind: 'repeat', item, min, max });
  }

  #chain(items: readonly Node[]): Node {
    const last = items.at(-1) ?? this.#add({ kind: 'empty' });
    return items.slice(0, -1).reduceRight((tail, head) => this.#add({ kind: 'pair', head, tail }), last);
  }

  #char(set: readonly Range[], isNegated: boolean): Node {
    const matches = (code: number): boolean => set.some(([from, to]) => from <= code && code <= to) !== isNegated;
    const [first] = set;
    const known = isNegated || first === undefined ? ' .' : String.fromCodePoint(first[0]);
    const sample = [...known].find((char) => matches(char.codePointAt(0) ?? 0));
    if (sample === undefined) throw this.#error();
    return this.#add({ kind: 'char', matches, sample });
  }

  #literal(text: string): Node {
    if (text === '') return this.#add({ kind: 'empty' });
    const node = this.#add({ kind: 'text', text });
    node.cost = Buffer.byteLength(text);
    return node;
  }

  #add(part: Part): Node {
    const id = this.#nodes.length;
    if (id >= NODES_MAX) throw new TooLargeError();
    const node = { ...part, id, cost: Infinity };
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
  const chars = text.match(/\\x[0-9a-fA-F]{2}|\\?./gsu) ?? [];
  for (let i = 0; i < chars.length; i++) {
    const from = codeOf(chars[i]);
    // A dash that is not escaped.
    const isRange = chars[i + 1] === '-' && i + 2 < chars.length;
    if (isRange) i += 2;
    found.push([from, codeOf(chars[i])]);
  }
  return found;
}

const codeOf = (escaped = ''): number => resolveEscapes(escaped).codePointAt(0) ?? 0;

const ESCAPES: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' };

function resolveEscapes(text: string): string {
  if (!text.includes('\\')) return text;
  return text.replace(/\\(?:x([0-9a-fA-F]{2})|(.))/gsu, (_, hex?: string, char = '') =>
    hex === undefined ? (ESCAPES[char] ?? char) : String.fromCharCode(Number.parseInt(hex, 16)),
  );
}
