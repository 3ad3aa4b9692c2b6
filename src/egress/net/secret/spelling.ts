/**
 * Spellings of a character in URLs, JSON, source code and HTML. Pure.
 *
 *     %2B   \u002B   \x2B   &#43;   &#x2b;   &amp;   \/
 */

export const SPELLING_BYTES_MAX = 6;
const ENTITIES: ReadonlyMap<string, string> = new Map([
  ...([
    ['amp', '&'],
    ['lt', '<'],
    ['gt', '>'],
    ['quot', '"'],
    ['apos', "'"],
  ] as const),
  ...([
    ['plus', '+'],
    ['sol', '/'],
    ['num', '#'],
    ['excl', '!'],
    ['ast', '*'],
  ] as const),
]);
const SEMICOLON = 0x3b;
const PERCENT = 0x25;
const BACKSLASH = 0x5c;
const AMPERSAND = 0x26;
const ZERO = 0x30;
const LETTER_U = 0x75;
const LETTER_X = 0x78;

export interface Spelling {
  readonly bytes: number;
  readonly code: number;
}

/** The spelling that ends before `end`; undefined if there is at most the byte itself. */
export function spellingBefore(bytes: Buffer, end: number): Spelling | undefined {
  const last = bytes[end - 1] ?? 0;
  if (last === SEMICOLON) {
    const found = entityBefore(bytes, end);
    if (found !== undefined) return found;
  }
  const low = hexDigit(last);
  const high = low < 0 ? -1 : hexDigit(bytes[end - 2] ?? 0);
  if (high >= 0) {
    const code = high * 16 + low;
    const third = bytes[end - 3];
    const fourth = bytes[end - 4];
    if (third === PERCENT) return { bytes: 3, code };
    if (third === LETTER_X && fourth === BACKSLASH) return { bytes: 4, code };
    const isUnicode = third === ZERO && fourth === ZERO && bytes[end - 5] === LETTER_U && bytes[end - 6] === BACKSLASH;
    if (isUnicode) return { bytes: 6, code };
  }
  const isEscaped = bytes[end - 2] === BACKSLASH && isPunctuation(last);
  return isEscaped ? { bytes: 2, code: last } : undefined;
}

export function beginsSpelling(code: number): boolean {
  return code === PERCENT || code === BACKSLASH || code === AMPERSAND;
}

function entityBefore(bytes: Buffer, end: number): Spelling | undefined {
  for (let length = 4; length <= SPELLING_BYTES_MAX; length += 1) {
    if (bytes[end - length] !== AMPERSAND) continue;
    const name = bytes.toString('latin1', end - length + 1, end - 1);
    const [, decimal, hex] = /^#(?:(\d+)|x([\da-f]+))$/i.exec(name) ?? [];
    const code =
      decimal !== undefined
        ? Number(decimal)
        : hex !== undefined
          ? Number.parseInt(hex, 16)
          : ENTITIES.get(name)?.charCodeAt(0);
    if (code !== undefined) return { bytes: length, code };
  }
  return undefined;
}

function hexDigit(code: number): number {
  if (code >= 0x30 && code <= 0x39) return code - 0x30;
  const lower = code | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x61 + 10 : -1;
}

function isPunctuation(code: number): boolean {
  const isAlphanumeric = (code >= 0x30 && code <= 0x39) || ((code | 0x20) >= 0x61 && (code | 0x20) <= 0x7a);
  return isVisible(code) && !isAlphanumeric;
}

/** True if a secret may contain this character. */
export function isVisible(code: number): boolean {
  return code >= 0x21 && code <= 0x7e;
}
