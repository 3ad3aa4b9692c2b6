/**
 * Path patterns: Go's `path.Match`, plus `**` as in moby/patternmatcher. Pure. No regular expressions, since an
 * untrusted pattern could make one run for hours.
 */

type Token =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'one' | 'many' | 'deep' }
  | { readonly kind: 'class'; readonly negated: boolean; readonly ranges: readonly string[] };

export type Pattern = readonly Token[];

/** @param deep whether `**` matches slashes. @returns `null` if it is no pattern */
export function compile(text: string, deep: boolean): Pattern | null {
  const tokens: Token[] = [];
  for (let at = 0; at < text.length; at += 1) {
    const character = text.charAt(at);
    if (character === '*') {
      if (deep && text.charAt(at + 1) === '*') {
        while (text.charAt(at + 1) === '*') at += 1;
        // `**/` also matches nothing.
        if (text.charAt(at + 1) === '/') at += 1;
        tokens.push({ kind: 'deep' });
      } else tokens.push({ kind: 'many' });
    } else if (character === '?') tokens.push({ kind: 'one' });
    else if (character === '[') {
      const end = classEnd(text, at);
      if (end < 0) return null;
      const inner = text.slice(at + 1, end);
      const negated = inner.startsWith('^');
      const body = negated ? inner.slice(1) : inner;
      tokens.push({ kind: 'class', negated, ranges: body.match(/\\?.-\\?.|\\?./gsu) ?? [] });
      at = end;
    } else if (character === '\\') {
      at += 1;
      if (at >= text.length) return null;
      tokens.push({ kind: 'text', text: text.charAt(at) });
    } else tokens.push({ kind: 'text', text: character });
  }
  return tokens;
}

function classEnd(text: string, start: number): number {
  // The first character may be `]`.
  for (let at = start + (text.charAt(start + 1) === '^' ? 3 : 2); at < text.length; at += 1) {
    if (text.charAt(at) === ']' && text.charAt(at - 1) !== '\\') return at;
  }
  return -1;
}

/** Takes time proportional to the product of both lengths. */
export function matches(pattern: Pattern, name: string): boolean {
  // The places in `name` up to which the tokens so far can match.
  let places: ReadonlySet<number> = new Set([0]);
  for (const [index, token] of pattern.entries()) {
    places = step(token, places, name, index === pattern.length - 1);
    if (places.size === 0) return false;
  }
  return places.has(name.length);
}

function step(token: Token, places: ReadonlySet<number>, name: string, isLast: boolean): ReadonlySet<number> {
  if (token.kind === 'deep') {
    const next = new Set(places);
    // As the last token it matches the whole rest, otherwise whole components: `**/b` is not in `ab`.
    for (let at = Math.min(...places); at <= name.length; at += 1) {
      if (isLast || name.charAt(at - 1) === '/') next.add(at);
    }
    return next;
  }
  const next = new Set<number>();
  for (const place of places) {
    if (token.kind !== 'many') {
      if (place < name.length && hits(token, name.charAt(place))) next.add(place + 1);
      continue;
    }
    for (let at = place; at <= name.length && !next.has(at); at += 1) {
      next.add(at);
      if (name.charAt(at) === '/') break;
    }
  }
  return next;
}

function hits(token: Exclude<Token, { kind: 'many' | 'deep' }>, character: string): boolean {
  if (token.kind === 'text') return token.text === character;
  if (character === '/') return false;
  if (token.kind === 'one') return true;
  if (!('ranges' in token)) return false;
  const inside = token.ranges.some((range) => {
    const [low = '', high = low] = range.split(/(?<=.)-(?=.)/s).map((end) => end.replace(/^\\(?=.)/s, ''));
    return low <= character && character <= high;
  });
  return inside !== token.negated;
}

export const hasWildcard = (text: string): boolean => /[*?[\\]/.test(text);

/** `*` matches any characters, slashes too; nothing else is special. */
export function matchesStars(pattern: string, name: string): boolean {
  const [head = '', ...parts] = pattern.split('*');
  const tail = parts.pop();
  if (tail === undefined) return pattern === name;
  if (!name.startsWith(head)) return false;
  let at = head.length;
  for (const part of parts) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return name.length - tail.length >= at && name.endsWith(tail);
}

/** Whether one of the patterns matches, as `matchesStars` does. */
export const matchesAny = (patterns: readonly string[], name: string): boolean =>
  patterns.some((pattern) => matchesStars(pattern, name));
