/**
 * A Dockerfile as a list of instructions: keyword, flags, the rest of its logical line, heredocs. Pure.
 *
 * `dockerfile-ast` says where instructions begin and end; what their words mean is decided here as BuildKit does
 * (frontend/dockerfile/parser).
 */
import { DockerfileParser } from 'dockerfile-ast';
import { invalid, shown } from './errors.ts';
import { DOCKERFILE_LIMITS } from './limits.ts';

export interface Heredoc {
  readonly name: string;
  /** False: its name is quoted, and variables in it are not replaced. */
  readonly expands: boolean;
  readonly content: string;
}

export interface Instruction {
  /** In capitals. */
  readonly keyword: string;
  /** Of its first line, from 1. */
  readonly line: number;
  /** `--name=value`; `--name` has the value `''`. In order. */
  readonly flags: readonly { readonly name: string; readonly value: string }[];
  /** Without keyword and flags, on one line. */
  readonly rest: string;
  /** With the heredocs below it, as a shell reads them. */
  readonly script: string;
  readonly heredocs: readonly Heredoc[];
}

export interface ParsedDockerfile {
  /** `\`, or a backquote. */
  readonly escapeMark: string;
  readonly instructions: readonly Instruction[];
}

/** @throws DockerfileError `dockerfile_invalid` */
export function parseDockerfile(bytes: Uint8Array): ParsedDockerfile {
  const { fileBytesMax, instructionsMax } = DOCKERFILE_LIMITS;
  if (bytes.length > fileBytesMax) {
    throw invalid(null, `the Dockerfile is larger than ${fileBytesMax} bytes`);
  }
  const text = decode(bytes);
  const document = DockerfileParser.parse(text);
  const escapeMark = document.getEscapeCharacter();
  const lines = text.split('\n');
  const found = document.getInstructions();
  if (found.length > instructionsMax) {
    throw invalid(null, `the Dockerfile has more than ${instructionsMax} instructions`);
  }
  const instructions = found.map((one) => {
    const { start, end } = one.getRange();
    const own = lines.slice(start.line, end.line + 1);
    return readInstruction(start.line + 1, own, escapeMark);
  });
  return { escapeMark, instructions };
}

function decode(bytes: Uint8Array): string {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw invalid(null, 'the Dockerfile is not UTF-8');
  }
  const nul = text.indexOf('\0');
  if (nul >= 0) throw invalid(text.slice(0, nul).split('\n').length, 'a NUL character');
  const whole = text.replaceAll('\r\n', '\n');
  // dockerfile-ast ends a line there, other builders do not.
  const bare = whole.indexOf('\r');
  if (bare >= 0) {
    throw invalid(whole.slice(0, bare).split('\n').length, 'a carriage return that ends no line');
  }
  return whole;
}

const KEYWORDS_WITH_HEREDOCS: ReadonlySet<string> = new Set(['RUN', 'COPY', 'ADD']);

function readInstruction(line: number, own: readonly string[], escapeMark: string): Instruction {
  const { text, used } = joinLines(own, escapeMark);
  const [, word = '', after = ''] = /^\s*(\S+)\s*(.*)$/s.exec(text) ?? [];
  const keyword = word.toUpperCase();
  const { flags, rest } = takeFlags(line, after, escapeMark);
  if (!KEYWORDS_WITH_HEREDOCS.has(keyword)) {
    return { keyword, line, flags, rest, script: rest, heredocs: [] };
  }
  const body = own.slice(used);
  const heredocs = readHeredocs(line, rest, body);
  const script = heredocs.length === 0 ? rest : [rest, ...body].join('\n');
  return { keyword, line, flags, rest, script, heredocs };
}

/** The logical line. Comments and empty lines in it are dropped. @returns also how many lines it has */
function joinLines(own: readonly string[], escapeMark: string): { text: string; used: number } {
  const [first = '', ...others] = own;
  let { line: text, continues } = withoutEscape(first, escapeMark);
  let used = 1;
  for (const one of others) {
    if (!continues) break;
    used += 1;
    if (/^\s*(#.*)?$/.test(one)) continue;
    const next = withoutEscape(one, escapeMark);
    text += next.line;
    ({ continues } = next);
  }
  return { text: text.trim(), used };
}

function withoutEscape(given: string, escapeMark: string): { line: string; continues: boolean } {
  const line = given.trimEnd();
  return line.endsWith(escapeMark)
    ? { line: line.slice(0, -escapeMark.length), continues: true }
    : { line: given, continues: false };
}

/** Flags come first, and end at the first word that is none. Quotes and escapes keep spaces together. */
function takeFlags(
  line: number,
  text: string,
  escapeMark: string,
): { readonly flags: Instruction['flags']; readonly rest: string } {
  const flags: { name: string; value: string }[] = [];
  let at = 0;
  while (text.startsWith('--', at)) {
    const { word, end } = flagWord(text, at, escapeMark);
    at = end;
    while (/\s/.test(text.charAt(at))) at += 1;
    if (word === '--') break;
    const [, name = '', value = ''] = /^--([a-z-]+)(?:=(.*))?$/s.exec(word) ?? [];
    if (name === '') throw invalid(line, `"${shown(word)}" is not a flag`);
    flags.push({ name, value });
    if (flags.length > DOCKERFILE_LIMITS.partsMax) throw invalid(line, 'too many flags');
  }
  return { flags, rest: text.slice(at) };
}

function flagWord(text: string, start: number, escapeMark: string): { word: string; end: number } {
  let word = '';
  let quote = '';
  let at = start;
  for (; at < text.length; at += 1) {
    const character = text.charAt(at);
    if (quote === '' && /\s/.test(character)) break;
    if (character === escapeMark && at + 1 < text.length) {
      at += 1;
      word += text.charAt(at);
    } else if (quote === '' && (character === '"' || character === "'")) quote = character;
    else if (character === quote) quote = '';
    else word += character;
  }
  return { word, end: at };
}

/** `<<name`, `<<-name`, `<<"name"`; not `<<<` of a shell. */
const HEREDOC = /(?<=^|\s)\d*<<(-?)(["']?)([A-Za-z_][\w.-]*)\2(?=\s|$|[;&|)>])/g;

function readHeredocs(line: number, rest: string, body: readonly string[]): readonly Heredoc[] {
  const opened = [...rest.matchAll(HEREDOC)];
  if (opened.length > DOCKERFILE_LIMITS.partsMax) throw invalid(line, 'too many heredocs');
  let at = 0;
  const read = opened.map(([, dash = '', quote = '', name = '']) => {
    const strip = (text: string): string => (dash === '' ? text : text.replace(/^\t+/, ''));
    const content: string[] = [];
    for (; at < body.length; at += 1) {
      const own = strip(body[at] ?? '');
      if (own === name) break;
      content.push(own);
    }
    if (at >= body.length) {
      throw invalid(line, `the heredoc ${name} has no end`, `Add a line with ${name} alone.`);
    }
    at += 1;
    return { name, expands: quote === '', content: content.map((own) => `${own}\n`).join('') };
  });
  // dockerfile-ast has another name for it, and took what follows for its content.
  if (opened.length > 0 && at < body.length && body.slice(at).some((one) => one.trim() !== '')) {
    const remedy = 'Put a space after the name of the heredoc.';
    throw invalid(line, `it is not clear where the heredoc ${opened.at(-1)?.[3]} ends`, remedy);
  }
  return read;
}
