/**
 * One requirement on a Python package, as in PEP 508: `name[extras] specifiers ; marker`, with `--hash` as in pip.
 *
 * Only packages of an index are allowed: a URL or a path would be fetched by other means than the package gateway, from
 * inside the guest. The line becomes part of a requirements file that pip reads in the guest, so nothing may pass that
 * pip takes for an option.
 */
import { REQUIREMENT_LIMITS } from '../../base/request/package-policy.ts';
import { RequirementsError } from './errors.ts';

const NAME = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?/;
const EXTRAS = /^\[\s*(?:[A-Za-z0-9._-]{1,100}(?:\s*,\s*[A-Za-z0-9._-]{1,100})*)?\s*\]/;
const SPECIFIER = /^(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9._*+!-]{1,100}$/;
/** A word that begins with a hyphen would be an option for pip. */
const MARKER = /^(?:[A-Za-z0-9_\s.'"<>=!~()*+]|(?<!\s|^)-){1,1000}$/;
const HASH = /^--hash=sha(?:256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})$/;

export interface Requirement {
  /** As PEP 503 normalizes it: lower case, runs of `-_.` as `-`. */
  readonly name: string;
  /** In one spelling, so that equal requirements are equal texts. */
  readonly text: string;
}

/** @throws RequirementsError `requirement_invalid` */
export function parseRequirement(given: string): Requirement {
  if (given.length > REQUIREMENT_LIMITS.lineCharacters) throw invalid(given, 'it is too long');
  const { requirement, hashes } = splitHashes(given.trim());
  const [wanted = '', ...markers] = requirement.split(';');
  const name = NAME.exec(wanted)?.[0];
  if (name === undefined) throw invalid(given, 'it does not begin with the name of a package');
  let rest = wanted.slice(name.length).trimStart();
  if (/^(@|\+\w+:|:\/\/)/.test(rest)) throw invalid(given, 'URLs, repositories and paths are not installed');
  const extras = EXTRAS.exec(rest)?.[0] ?? '';
  rest = rest.slice(extras.length).trim();
  if (rest.startsWith('(') && rest.endsWith(')')) rest = rest.slice(1, -1).trim();
  const specifiers = rest === '' ? [] : rest.split(',').map((one) => one.trim());
  for (const one of specifiers) {
    if (!SPECIFIER.test(one)) throw invalid(given, `"${one.slice(0, 40)}" is no version specifier`);
  }
  const marker = markers.join(';').trim();
  if (markers.length > 0 && !MARKER.test(marker)) throw invalid(given, 'its marker is malformed');
  const normal = normalName(name);
  const text = [
    `${normal}${normalExtras(extras)}${specifiers.map(tight).sort().join(',')}`,
    ...(marker === '' ? [] : [`; ${marker.replace(/\s+/g, ' ')}`]),
    ...hashes,
  ].join(' ');
  return { name: normal, text };
}

/** PEP 503. */
export function normalName(name: string): string {
  return name.replace(/[-_.]+/g, '-').toLowerCase();
}

/** The requirements of one flag: `a,b>=1,<2` are two. A comma ends a requirement if a name follows, not an operator. */
export function splitRequirements(text: string): readonly string[] {
  const parts: string[] = [];
  let depth = 0;
  for (const piece of text.split(',')) {
    const continues = depth > 0 || /^\s*[=~!<>]/.test(piece);
    const last = parts.length - 1;
    if (continues && last >= 0) parts[last] += `,${piece}`;
    else parts.push(piece);
    depth += count(piece, '[') + count(piece, '(') - count(piece, ']') - count(piece, ')');
  }
  return parts.map((part) => part.trim()).filter((part) => part !== '');
}

/**
 * Checks, sorts and normalizes requirements, and removes duplicates.
 * @throws RequirementsError `requirement_invalid`
 */
export function parseRequirements(given: readonly string[]): readonly string[] {
  const { lines, characters } = REQUIREMENT_LIMITS;
  if (given.length > lines) {
    throw new RequirementsError('requirement_invalid', `more than ${lines} requirements`);
  }
  const texts = new Set(given.map((one) => parseRequirement(one).text));
  const sorted = [...texts].sort();
  if (sorted.join('\n').length > characters) {
    throw new RequirementsError('requirement_invalid', `requirements of more than ${characters} characters`);
  }
  return sorted;
}

function splitHashes(text: string): { requirement: string; hashes: readonly string[] } {
  const words = text.split(/\s+/);
  const at = words.findIndex((word) => word.startsWith('--'));
  if (at < 0) return { requirement: text, hashes: [] };
  const hashes = words.slice(at);
  const wrong = hashes.find((word) => !HASH.test(word));
  if (wrong !== undefined) throw invalid(text, `"${wrong.slice(0, 40)}" is not supported`);
  return { requirement: words.slice(0, at).join(' '), hashes: hashes.toSorted() };
}

function normalExtras(extras: string): string {
  const names = extras
    .replace(/[[\]]/g, '')
    .split(',')
    .map((one) => normalName(one.trim()))
    .filter((one) => one !== '');
  return names.length === 0 ? '' : `[${names.sort().join(',')}]`;
}

function tight(specifier: string): string {
  return specifier.replace(/\s+/g, '');
}

function count(text: string, character: string): number {
  return text.split(character).length - 1;
}

function invalid(given: string, why: string): RequirementsError {
  const shown = given.length > 80 ? `${given.slice(0, 80)}…` : given;
  return new RequirementsError('requirement_invalid', `requirement "${shown}" can't be installed`, {
    cause: why,
    remedy: 'write it as NAME, NAME==1.2 or NAME[EXTRA]>=1,<2; packages come from the package index',
  });
}
