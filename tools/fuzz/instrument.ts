/**
 * Instruments a module for coverage: a counter per branch, and a note per comparison of how near it was. Only text is
 * inserted, and no line break, so that stack traces and line numbers stay those of the source.
 *
 *     if (a === 7) b();     →     if (isSame(3, a, 7)) { branches[5]++; b(); } else { branches[6]++; }
 */
import { parseAst } from 'rolldown/parseAst';

export interface Instrumented {
  readonly code: string;
  readonly branches: number;
  readonly comparisons: number;
  /** Strings and numbers in the code: words of the language that it parses. */
  readonly literals: readonly (string | number)[];
}

interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [key: string]: unknown;
}

interface Edit {
  readonly at: number;
  /** Inserted text that closes comes before text that opens; of two that close, the inner one first. */
  readonly rank: number;
  readonly text: string;
}

const WORD = /^[!-~]{2,40}$/;
const NUMBER_MIN = 16;
const OPERATORS: Readonly<Record<string, string>> = {
  '===': '__nvSame',
  '==': '__nvSame',
  '!==': '__nvOther',
  '!=': '__nvOther',
};

class Walk {
  readonly #code: string;
  readonly #firstBranch: number;
  readonly #firstComparison: number;
  readonly edits: Edit[] = [];
  readonly literals = new Set<string | number>();
  branches = 0;
  comparisons = 0;
  #depth = 0;

  constructor(code: string, firstBranch: number, firstComparison: number) {
    this.#code = code;
    this.#firstBranch = firstBranch;
    this.#firstComparison = firstComparison;
  }

  visit(node: Node): void {
    this.#depth += 1;
    this.#edit(node);
    for (const value of Object.values(node)) {
      if (Array.isArray(value)) {
        for (const each of value as unknown[]) if (isNode(each)) this.visit(each);
      } else if (isNode(value)) this.visit(value);
    }
    this.#depth -= 1;
  }

  #edit(node: Node): void {
    const child = (name: string): Node | undefined => (isNode(node[name]) ? (node[name] as Node) : undefined);
    switch (node.type) {
      case 'ArrowFunctionExpression':
      case 'FunctionExpression':
      case 'FunctionDeclaration':
        this.#body(child('body'));
        break;
      case 'IfStatement':
        this.#statement(child('consequent'));
        if (child('alternate') === undefined) this.#close(node.end, ` else {${this.#count()};}`);
        else this.#statement(child('alternate'));
        break;
      case 'ForStatement':
      case 'ForInStatement':
      case 'ForOfStatement':
      case 'WhileStatement':
      case 'DoWhileStatement':
        this.#statement(child('body'));
        break;
      case 'CatchClause':
        this.#statement(child('body'));
        break;
      case 'ConditionalExpression':
        this.#expression(child('consequent'));
        this.#expression(child('alternate'));
        break;
      case 'LogicalExpression':
        this.#expression(child('right'));
        break;
      case 'SwitchStatement':
        this.#cases(node);
        break;
      case 'BinaryExpression':
        this.#comparison(node);
        break;
      case 'Literal':
        this.#literal(node['value']);
        break;
      default:
        break;
    }
  }

  #literal(value: unknown): void {
    if (typeof value === 'string' && WORD.test(value)) this.literals.add(value);
    if (typeof value === 'number' && Number.isInteger(value) && value >= NUMBER_MIN) this.literals.add(value);
  }

  #count(): string {
    this.branches += 1;
    return `__nvBranches[${this.#firstBranch + this.branches - 1}]++`;
  }

  #open(at: number, text: string): void {
    this.edits.push({ at, rank: this.#depth, text });
  }

  #close(at: number, text: string): void {
    this.edits.push({ at, rank: -this.#depth, text });
  }

  #body(body: Node | undefined): void {
    if (body === undefined) return;
    if (body.type === 'BlockStatement') this.#statement(body);
    else this.#expression(body);
  }

  #statement(node: Node | undefined): void {
    if (node === undefined) return;
    if (node.type === 'BlockStatement') {
      this.#open(node.start + 1, `${this.#count()};`);
      return;
    }
    this.#open(node.start, `{${this.#count()};`);
    this.#close(node.end, '}');
  }

  #expression(node: Node | undefined): void {
    if (node === undefined) return;
    this.#open(node.start, `(${this.#count()},`);
    this.#close(node.end, ')');
  }

  #cases(node: Node): void {
    const subject = node['discriminant'] as Node;
    const isPlain = subject.type === 'Identifier';
    for (const each of node['cases'] as Node[]) {
      const [first] = each['consequent'] as Node[];
      if (first !== undefined) this.#open(first.start, `${this.#count()};`);
      const test = each['test'];
      if (!isPlain || !isNode(test)) continue;
      const name = this.#code.slice(subject.start, subject.end);
      this.#open(test.start, `__nvCase(${this.#comparisonSite()},${name},(`);
      this.#close(test.end, '))');
    }
  }

  #comparisonSite(): number {
    this.comparisons += 1;
    return this.#firstComparison + this.comparisons - 1;
  }

  #comparison(node: Node): void {
    const operator = node['operator'] as string;
    const name = OPERATORS[operator];
    const left = node['left'] as Node;
    const right = node['right'] as Node;
    if (name === undefined || isDull(left) || isDull(right)) return;
    const between = this.#code.slice(left.end, right.start);
    const at = left.end + between.indexOf(operator);
    // Next to a comment, the operator can't be located reliably.
    if (/\/[/*]/.test(between)) return;
    this.#open(node.start, `${name}(${this.#comparisonSite()},`);
    this.edits.push({ at, rank: Number.NaN, text: operator });
    this.#close(node.end, ')');
  }
}

/** Whether nothing can be nearly equal to this node's value. */
function isDull(node: Node): boolean {
  if (node.type === 'Identifier') return node['name'] === 'undefined';
  if (node.type === 'UnaryExpression') return node['operator'] === 'typeof';
  return node.type === 'Literal' && (node['value'] === null || typeof node['value'] === 'boolean');
}

const isNode = (value: unknown): value is Node =>
  typeof value === 'object' && value !== null && typeof (value as Node).type === 'string';

/**
 * @param code TypeScript
 * @param probe the URL of `probe.ts` as the module can import it
 */
export function instrument(code: string, probe: string, firstBranch = 0, firstComparison = 0): Instrumented {
  const walk = new Walk(code, firstBranch, firstComparison);
  walk.visit(parseAst(code, { lang: 'ts' }) as unknown as Node);
  const { branches, comparisons } = walk;
  const header = `import { branches as __nvBranches, isSame as __nvSame, isOther as __nvOther, caseOf as __nvCase } from ${JSON.stringify(probe)};`;
  return { code: header + applied(code, walk.edits), branches, comparisons, literals: [...walk.literals] };
}

/** A rank that is not a number marks text that a comma replaces: the operator of a comparison. */
function applied(code: string, edits: readonly Edit[]): string {
  const order = (edit: Edit): number => (Number.isNaN(edit.rank) ? 0 : edit.rank);
  const sorted = [...edits].sort((a, b) => a.at - b.at || order(a) - order(b));
  let result = '';
  let from = 0;
  for (const { at, rank, text } of sorted) {
    result += code.slice(from, at);
    from = at;
    if (Number.isNaN(rank)) {
      result += ',';
      from += text.length;
    } else result += text;
  }
  return result + code.slice(from);
}
