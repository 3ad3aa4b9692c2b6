/**
 * Splits an instruction into words: quotes, escapes and variables, as BuildKit's shell lexer reads them, without
 * pattern operators (`${a#b}`) and commands. Pure.
 */
import { invalid, shown } from './errors.ts';
import { DOCKERFILE_LIMITS } from './limits.ts';

export interface Scope {
  readonly line: number;
  readonly escapeMark: string;
  readonly variables: Readonly<Record<string, string>>;
}

/** Expands one word: variables replaced, quotes removed. @throws DockerfileError `dockerfile_invalid` */
export function expandWord(text: string, scope: Scope): string {
  return new Lexer(text, scope).word();
}

/** Likewise for a text without quotes: a heredoc. */
export function expandText(text: string, scope: Scope): string {
  return new Lexer(text, scope).plain();
}

/** Splits at spaces, including those in values of variables. */
export function expandWords(text: string, scope: Scope): readonly string[] {
  let characters = 0;
  return splitWords(text, scope.escapeMark).map((word) => {
    const expanded = expandWord(word, scope);
    characters += expanded.length;
    if (characters > DOCKERFILE_LIMITS.expandedCharactersMax) {
      throw invalid(scope.line, `the words are too long in "${shown(text)}"`);
    }
    return expanded;
  });
}

/** Splits at spaces outside of quotes and `${…}`; keeps quotes and escapes. */
export function splitWords(text: string, escapeMark: string): readonly string[] {
  const words: string[] = [];
  let word = '';
  let quote = '';
  let braces = 0;
  for (let at = 0; at < text.length; at += 1) {
    const character = text.charAt(at);
    if (quote === '' && braces === 0 && /\s/.test(character)) {
      if (word !== '') words.push(word);
      word = '';
      continue;
    }
    // Looking up the end of `word` would take time linear in its length.
    if (quote !== "'" && character === '{' && word !== '' && text.charAt(at - 1) === '$') braces += 1;
    else if (quote !== "'" && character === '}' && braces > 0) braces -= 1;
    word += character;
    if (character === escapeMark && quote !== "'") {
      at += 1;
      word += text.charAt(at);
    } else if (quote === '' && (character === '"' || character === "'")) quote = character;
    else if (character === quote) quote = '';
  }
  if (word !== '') words.push(word);
  return words;
}

/** `["a", "b"]`; `null` if the text is not of that form. */
export function jsonWords(text: string): readonly string[] | null {
  if (!text.startsWith('[')) return null;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return null;
  }
  if (!Array.isArray(json)) return null;
  return json.every((one) => typeof one === 'string') ? json : null;
}

const NAME = /^[A-Za-z_]\w*|^\d+|^[@*#?!$-]/;

class Lexer {
  readonly #text: string;
  readonly #scope: Scope;
  #at = 0;

  constructor(text: string, scope: Scope) {
    this.#text = text;
    this.#scope = scope;
  }

  word(until = ''): string {
    let out = '';
    while (this.#at < this.#text.length) {
      const character = this.#text.charAt(this.#at);
      if (character === until) break;
      if (character === "'") out += this.#single();
      else if (character === '"') out += this.#double();
      else if (character === '$') out += this.#variable();
      else if (character === this.#scope.escapeMark) {
        out += this.#text.charAt(this.#at + 1);
        this.#at += 2;
      } else {
        out += character;
        this.#at += 1;
      }
      this.#bound(out);
    }
    return out;
  }

  plain(): string {
    let out = '';
    while (this.#at < this.#text.length) {
      const character = this.#text.charAt(this.#at);
      if (character === '$') out += this.#variable();
      else if (character === this.#scope.escapeMark && this.#text.charAt(this.#at + 1) === '$') {
        out += '$';
        this.#at += 2;
      } else {
        out += character;
        this.#at += 1;
      }
      if (out.length > DOCKERFILE_LIMITS.expandedCharactersMax) throw this.#wrong('a file is too long');
    }
    return out;
  }

  #single(): string {
    const end = this.#text.indexOf("'", this.#at + 1);
    if (end < 0) throw this.#wrong("a ' has no end");
    const out = this.#text.slice(this.#at + 1, end);
    this.#at = end + 1;
    return out;
  }

  #double(): string {
    let out = '';
    this.#at += 1;
    for (;;) {
      if (this.#at >= this.#text.length) throw this.#wrong('a " has no end');
      const character = this.#text.charAt(this.#at);
      if (character === '"') break;
      if (character === '$') out += this.#variable();
      else if (character === this.#scope.escapeMark && this.#at + 1 < this.#text.length) {
        const next = this.#text.charAt(this.#at + 1);
        const isSpecial = next === '"' || next === '$' || next === this.#scope.escapeMark;
        out += isSpecial ? next : character + next;
        this.#at += 2;
      } else {
        out += character;
        this.#at += 1;
      }
      this.#bound(out);
    }
    this.#at += 1;
    return out;
  }

  #variable(): string {
    this.#at += 1;
    if (this.#text.charAt(this.#at) === '{') return this.#braced();
    const [name = ''] = NAME.exec(this.#text.slice(this.#at, this.#at + NAME_MAX)) ?? [];
    if (name === '') return '$';
    this.#at += name.length;
    return this.#value(name) ?? '';
  }

  #braced(): string {
    this.#at += 1;
    const [name = ''] = NAME.exec(this.#text.slice(this.#at, this.#at + NAME_MAX)) ?? [];
    this.#at += name.length;
    const value = this.#value(name);
    const rest = this.#text.slice(this.#at, this.#at + 2);
    const [operator = ''] = /^:?[-+?]/.exec(rest) ?? [];
    if (rest.startsWith('}') && name !== '') {
      this.#at += 1;
      return value ?? '';
    }
    if (name === '' || operator === '') {
      throw this.#wrong(`\${${name}${rest.charAt(0)} is not supported`);
    }
    this.#at += operator.length;
    this.#depth += 1;
    if (this.#depth > DEPTH_MAX) throw this.#wrong('variables are nested too deeply');
    const word = this.word('}');
    this.#depth -= 1;
    if (this.#text.charAt(this.#at) !== '}') throw this.#wrong('a variable in braces has no end');
    this.#at += 1;
    const isSet = value !== undefined && (value !== '' || !operator.startsWith(':'));
    if (operator.endsWith('-')) return isSet ? value : word;
    if (operator.endsWith('+')) return isSet ? word : '';
    if (isSet) return value;
    throw this.#wrong(`${name} is not set${word === '' ? '' : `: ${shown(word)}`}`);
  }

  #depth = 0;

  #value(name: string): string | undefined {
    const { variables } = this.#scope;
    return Object.hasOwn(variables, name) ? variables[name] : undefined;
  }

  #bound(out: string): void {
    if (out.length > DOCKERFILE_LIMITS.valueCharactersMax) throw this.#wrong('a value is too long');
  }

  #wrong(why: string): Error {
    return invalid(this.#scope.line, `${why} in "${shown(this.#text)}"`);
  }
}

const NAME_MAX = 256;
const DEPTH_MAX = 16;
