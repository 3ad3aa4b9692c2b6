/**
 * Whether the path of a request means the same to everybody who reads it on its way: only then can a rule by
 * path judge it. What is ambiguous is refused and never rewritten. Pure.
 *
 *     /v1/models/a%20b     one meaning
 *     /v1/%2e%2e/admin     to some a name, to others `/admin`: refused, as all of its kind below
 */

export type PathProblem =
  /** `*` of OPTIONS, or no `/` at the beginning. */
  | 'no_path'
  /** Not of RFC 3986's `pchar`: clients encode it, and servers differ about it as it is. */
  | 'character'
  /** `%` without two hexadecimal digits. */
  | 'percent'
  /** Letters, digits, `-._~` encoded: the same as themselves to some (RFC 3986 section 6.2.2.2). */
  | 'encoded_unreserved'
  /** `%2f`, `%5c`, `%3b`, `%25` and controls: they end or change a segment for who decodes before he splits, or twice. */
  | 'encoded_delimiter'
  /** No UTF-8, or characters that some fold to ASCII ones: `%ef%bc%8f`. */
  | 'encoded_text'
  /** `//`, which some take for `/`. */
  | 'empty_segment'
  /** `.`, `..`, or what is read as such: with spaces, more dots. */
  | 'dot_segment'
  /** `;…`, which some servers cut off before they look what the segment is. */
  | 'parameter';

type PathRead =
  /** @property path the same, its percent-encodings in upper case: for comparison, not to be sent */
  | { readonly ok: true; readonly path: string }
  | { readonly ok: false; readonly problem: PathProblem };

/** RFC 3986 section 3.3, `%` and `/` besides; `;` has a reason of its own. */
const CHARACTERS = /^[A-Za-z0-9\-._~!$&'()*+,=:@;%/]*$/;
const UNRESERVED = /^[A-Za-z0-9\-._~]$/;
const DELIMITERS: ReadonlySet<string> = new Set(['/', '\\', ';', '%']);
/** Not folded to ASCII by Unicode (NFKC), but by tables of Windows (best fit) and by Japanese and Korean ones. */
const LOOKALIKES: ReadonlySet<string> = new Set('\u2044\u2215\u2216\u29f5\u29f8\u29f9\u00a5\u20a9');

/** @param target path and query as in the request line, or `*`; of the query nothing is judged */
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
  // Nothing but dots, spaces that Windows cuts off, and what is invisible and dropped by some.
  return /^[.\s\p{Default_Ignorable_Code_Point}]+$/u.test(text) ? 'dot_segment' : undefined;
}

function decoded(segment: string): string | undefined {
  if (!segment.includes('%')) return segment;
  const bytes = segment.replaceAll(/%(..)/g, (_, code: string) =>
    String.fromCharCode(Number.parseInt(code, 16)),
  );
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(
      Buffer.from(bytes, 'latin1'),
    );
  } catch {
    return undefined;
  }
}

/** Becomes, or has in it, an ASCII character where text is normalised. */
function isFolded(character: string): boolean {
  const code = character.codePointAt(0) ?? 0;
  if (code < 0x80) return false;
  if (code < 0xa0 || LOOKALIKES.has(character)) return true;
  return /\p{ASCII}/u.test(character.normalize('NFKC'));
}

const WHY: Readonly<Record<PathProblem, string>> = {
  no_path: 'it names no path',
  character: 'it has a character that must be percent-encoded',
  percent: 'it has a % that encodes nothing',
  encoded_unreserved: 'it has a letter, digit or one of -._~ percent-encoded',
  encoded_delimiter:
    'it has a slash, backslash, semicolon, percent sign or control percent-encoded',
  encoded_text: 'it has percent-encoded text that some servers read as other text',
  empty_segment: 'it has //',
  dot_segment: 'it has a segment of dots or spaces alone',
  parameter: 'it has a ;',
};

/** For people. */
export function pathProblemText(problem: PathProblem): string {
  return WHY[problem];
}
