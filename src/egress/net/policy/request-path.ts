/**
 * Checks that the path of a request means the same to every server on its way; only then can a path rule judge it.
 * Ambiguous paths are refused, never rewritten. Pure.
 *
 *     /v1/models/a%20b     one meaning
 *     /v1/%2e%2e/admin     a name for some, `/admin` for others: refused, like all kinds below
 */

export type PathProblem =
  /** `*` of OPTIONS, or no leading `/`. */
  | 'no_path'
  /** Not a `pchar` of RFC 3986: clients encode it, and servers differ on the plain form. */
  | 'character'
  /** `%` without two hexadecimal digits. */
  | 'percent'
  /** Encoded letters, digits or `-._~`: some servers decode them (RFC 3986 section 6.2.2.2). */
  | 'encoded_unreserved'
  /**
   * `%2f`, `%5c`, `%3b`, `%25` and control characters: they change segments if a server decodes before it splits, or
   * twice.
   */
  | 'encoded_delimiter'
  /** Not UTF-8, or characters that some servers fold to ASCII: `%ef%bc%8f`. */
  | 'encoded_text'
  /** `//`, which some servers read as `/`. */
  | 'empty_segment'
  /** `.`, `..`, and variants that some servers read as such: with spaces, more dots. */
  | 'dot_segment'
  /** `;…`, which some servers remove before they read the segment. */
  | 'parameter';

type PathRead =
  /** @property path with percent-encodings in upper case: for comparison, not to be sent */
  { readonly ok: true; readonly path: string } | { readonly ok: false; readonly problem: PathProblem };

/** RFC 3986 section 3.3, with `%` and `/`; `;` has its own problem. */
const CHARACTERS = /^[A-Za-z0-9\-._~!$&'()*+,=:@;%/]*$/;
const UNRESERVED = /^[A-Za-z0-9\-._~]$/;
const DELIMITERS: ReadonlySet<string> = new Set(['/', '\\', ';', '%']);
/** Folded to ASCII not by Unicode (NFKC), but by best-fit tables of Windows and by Japanese and Korean encodings. */
const LOOKALIKES: ReadonlySet<string> = new Set('\u2044\u2215\u2216\u29f5\u29f8\u29f9\u00a5\u20a9');

/** @param target path and query as in the request line, or `*`; the query is not judged */
export function readPath(target: string): PathRead {
  const [path = ''] = target.split('?', 1);
  const problem = problemOf(path);
  if (problem !== undefined) return { ok: false, problem };
  return { ok: true, path: path.replaceAll(/%[0-9a-f]{2}/gi, (code) => code.toUpperCase()) };
}

function problemOf(path: string): PathProblem | undefined {
  if (!path.startsWith('/')) return 'no_path';
  if (!CHARACTERS.test(path)) return 'character';
  if (path.includes(';')) return 'parameter';
  if (path.includes('//')) return 'empty_segment';
  for (const segment of path.split('/')) {
    const problem = segmentProblem(segment);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

function segmentProblem(segment: string): PathProblem | undefined {
  if (/%(?![0-9a-f]{2})/i.test(segment)) return 'percent';
  for (const [, code = ''] of segment.matchAll(/%(..)/g)) {
    const byte = Number.parseInt(code, 16);
    const character = String.fromCharCode(byte);
    if (UNRESERVED.test(character)) return 'encoded_unreserved';
    if (byte < 0x20 || byte === 0x7f || DELIMITERS.has(character)) return 'encoded_delimiter';
  }
  const text = decoded(segment);
  if (text === undefined || [...text].some(isFolded)) return 'encoded_text';
  // Only dots, spaces that Windows removes, and invisible characters that some servers drop.
  return /^[.\s\p{Default_Ignorable_Code_Point}]+$/u.test(text) ? 'dot_segment' : undefined;
}

function decoded(segment: string): string | undefined {
  if (!segment.includes('%')) return segment;
  const bytes = segment.replaceAll(/%(..)/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16)));
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(bytes, 'latin1'));
  } catch {
    return undefined;
  }
}

/** True if normalization turns it into text with ASCII characters. */
function isFolded(character: string): boolean {
  const code = character.codePointAt(0) ?? 0;
  if (code < 0x80) return false;
  if (code < 0xa0 || LOOKALIKES.has(character)) return true;
  return /\p{ASCII}/u.test(character.normalize('NFKC'));
}

const WHY: Readonly<Record<PathProblem, string>> = {
  no_path: 'it has no path',
  character: 'it has a character that must be percent-encoded',
  percent: 'it has a % without two hex digits',
  encoded_unreserved: 'it has a letter, digit or one of -._~ percent-encoded',
  encoded_delimiter: 'it has a slash, backslash, semicolon, percent sign or control percent-encoded',
  encoded_text: 'it has percent-encoded text that some servers read as other text',
  empty_segment: 'it has //',
  dot_segment: 'it has a segment of dots or spaces alone',
  parameter: 'it has a ;',
};

export function pathProblemText(problem: PathProblem): string {
  return WHY[problem];
}
