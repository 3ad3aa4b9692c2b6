/**
 * Parses a Dockerfile into instructions: keyword, flags, the rest of its logical line, heredocs. Joins lines and finds
 * heredocs as BuildKit does (frontend/dockerfile/parser). Pure.
 */
import { invalid, shown } from './errors.ts';
import { DOCKERFILE_LIMITS } from './limits.ts';
import { splitWords } from './words.ts';

export interface Heredoc {
  readonly name: string;
  /** False if its name is quoted, so that variables in it are not replaced. */
  readonly expands: boolean;
  readonly content: string;
}

export interface Instruction {
  /** In capitals. */
  readonly keyword: string;
  /** Number of its first line, from 1. */
  readonly line: number;
  /** `--name=value`; `--name` has the value `''`. In order. */
  readonly flags: readonly { readonly name: string; readonly value: string }[];
  /** Without keyword and flags, on one line. */
  readonly rest: string;
  /** With the heredocs below it, as a shell reads them. */
  readonly script: string;
  readonly heredocs: readonly Heredoc[];
  /** SHA-256 of an archive that COPY takes its files from. Default: the context. Can't be written in a Dockerfile. */
  readonly archive?: string;
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
  const lines = decode(bytes).split('\n');
  const escapeMark = readEscapeMark(lines);
  const instructions: Instruction[] = [];
  for (let at = 0; at < lines.length; ) {
    if (isEmptyOrComment(lines[at] ?? '')) {
      at += 1;
      continue;
    }
    if (instructions.length >= instructionsMax) {
      throw invalid(null, `the Dockerfile has more than ${instructionsMax} instructions`);
    }
    const { instruction, end } = readInstruction(lines, at, escapeMark);
    instructions.push(instruction);
    at = end;
  }
  return { escapeMark, instructions };
}

const isEmptyOrComment = (line: string): boolean => /^\s*(#.*)?$/.test(line);

/** Directives are comments `# name=value` before anything else. */
function readEscapeMark(lines: readonly string[]): string {
  for (const [index, line] of lines.entries()) {
    const [, name, value = ''] = /^#\s*([a-z][a-z0-9]*)\s*=\s*(\S.*?)\s*$/i.exec(line) ?? [];
    if (name === undefined) break;
    if (name.toLowerCase() !== 'escape') continue;
    if (value === '\\' || value === '`') return value;
    const remedy = 'Use a backslash or a backquote.';
    throw invalid(index + 1, `"${shown(value)}" is not an escape character`, remedy);
  }
  return '\\';
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
  // On a terminal, it hides text.
  const bare = whole.indexOf('\r');
  if (bare >= 0) {
    throw invalid(whole.slice(0, bare).split('\n').length, 'a carriage return that ends no line');
  }
  return whole;
}

const KEYWORDS_WITH_HEREDOCS: ReadonlySet<string> = new Set(['RUN', 'COPY', 'ADD']);

/** Also returns where the next one may begin. */
function readInstruction(
  lines: readonly string[],
  start: number,
  escapeMark: string,
): { readonly instruction: Instruction; readonly end: number } {
  const { text, end } = joinLines(lines, start, escapeMark);
  const line = start + 1;
  const [, word = '', after = ''] = /^\s*(\S+)\s*(.*)$/s.exec(text) ?? [];
  const keyword = word.toUpperCase();
  const { flags, rest } = takeFlags(line, after, escapeMark);
  if (!KEYWORDS_WITH_HEREDOCS.has(keyword)) {
    return { instruction: { keyword, line, flags, rest, script: rest, heredocs: [] }, end };
  }
  const marks = heredocMarks(line, rest, escapeMark);
  const { heredocs, end: bodyEnd } = readHeredocs(line, marks, lines, end);
  const script = [rest, ...lines.slice(end, bodyEnd)].join('\n');
  return { instruction: { keyword, line, flags, rest, script, heredocs }, end: bodyEnd };
}

/** The logical line, without its comments and empty lines. */
function joinLines(
  lines: readonly string[],
  start: number,
  escapeMark: string,
): { readonly text: string; readonly end: number } {
  const parts: string[] = [];
  let continues = true;
  let at = start;
  for (; continues && at < lines.length; at += 1) {
    const given = lines[at] ?? '';
    if (at > start && isEmptyOrComment(given)) continue;
    const line = given.trimEnd();
    // Two of them are an escaped one.
    continues = line.endsWith(escapeMark) && line.at(-2) !== escapeMark;
    parts.push(continues ? line.slice(0, -1) : given);
  }
  return { text: parts.join('').trim(), end: at };
}

/** Flags come first, and end at the first other word. Quotes and escapes keep spaces together. */
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

interface HeredocMark {
  readonly name: string;
  readonly expands: boolean;
  readonly strips: boolean;
}

/** A whole word: `<<name`, `<<-name`, `<<"name"`; not `<<<` of a shell, and nothing within quotes. */
const MARK = /^\d*<<(-?)(["']?)([A-Za-z_][\w.-]*)\2(.*)$/s;

function heredocMarks(line: number, rest: string, escapeMark: string): readonly HeredocMark[] {
  const marks = splitWords(rest, escapeMark).flatMap((word): readonly HeredocMark[] => {
    const [, dash = '', quote = '', name, more = ''] = MARK.exec(word) ?? [];
    if (name === undefined) return [];
    // Shells end the name there, other builders do not.
    if (more !== '') {
      const remedy = 'Put a space after the name of the heredoc.';
      throw invalid(line, `it is not clear where the heredoc ${name} ends`, remedy);
    }
    return [{ name, expands: quote === '', strips: dash !== '' }];
  });
  if (marks.length > DOCKERFILE_LIMITS.partsMax) throw invalid(line, 'too many heredocs');
  return marks;
}

/** @param start of the first one's content. @returns also where the last one ends */
function readHeredocs(
  line: number,
  marks: readonly HeredocMark[],
  lines: readonly string[],
  start: number,
): { readonly heredocs: readonly Heredoc[]; readonly end: number } {
  let at = start;
  const heredocs = marks.map(({ name, expands, strips }) => {
    const content: string[] = [];
    for (; at < lines.length; at += 1) {
      const own = strips ? (lines[at] ?? '').replace(/^\t+/, '') : lines[at];
      if (own === name) break;
      content.push(`${own}\n`);
    }
    if (at >= lines.length) {
      throw invalid(line, `the heredoc ${name} has no end`, `Add a line with ${name} alone.`);
    }
    at += 1;
    return { name, expands, content: content.join('') };
  });
  return { heredocs, end: at };
}
