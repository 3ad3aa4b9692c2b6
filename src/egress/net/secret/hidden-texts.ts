/** Determines which parts of set field values must be hidden from a guest. Pure. */
import { isCookie, isCredentialField } from './credentials.ts';

/** Shorter texts could be in an answer by chance. */
const HIDDEN_CHARACTERS_MIN = 16;
/** For the value of a field that is named like a credential, if it has no longer part. */
const HIDDEN_CREDENTIAL_CHARACTERS_MIN = 8;
/** Fields that servers repeat in answers, and whose values are no secrets: hiding them would damage answers. */
const PUBLIC =
  /^(?:accept|accept-charset|accept-language|cache-control|content-language|content-type|from|origin|pragma|prefer|referer|user-agent)$/i;
const SCHEME = /^[A-Za-z][A-Za-z0-9-]{0,14}$/;

/**
 * The parts of a value to hide in answers: a server may repeat a token without its scheme, a cookie without its name, a
 * password without its Basic.
 */
export function hiddenTexts(name: string, value: string): readonly string[] {
  if (PUBLIC.test(name)) return [];
  const words = value.split(/[ \t]+/).filter((word) => word !== '');
  const hasScheme = /^(?:proxy-)?authorization$/i.test(name) && SCHEME.test(words[0] ?? '');
  const rest = words.length > 1 && hasScheme ? words.slice(1) : words;
  const pieces = rest.flatMap((word) => [word, ...word.split(/[;,="]+/)]);
  const isCredential = isCookie(name) || isCredentialField({ name, value });
  const atLeast = (min: number): string[] => pieces.filter(({ length }) => length >= min);
  const long = atLeast(HIDDEN_CHARACTERS_MIN);
  const hidden = long.length === 0 && isCredential ? atLeast(HIDDEN_CREDENTIAL_CHARACTERS_MIN) : long;
  const halves = basicHalves(words).filter(({ length }) => length >= HIDDEN_CREDENTIAL_CHARACTERS_MIN);
  return [...new Set([...hidden, ...halves])];
}

function basicHalves([scheme = '', text = '', ...more]: readonly string[]): readonly string[] {
  if (scheme.toLowerCase() !== 'basic' || more.length > 0) return [];
  const pair = Buffer.from(text, 'base64').toString('latin1');
  const colon = pair.indexOf(':');
  const halves = colon < 0 ? [pair] : [pair.slice(0, colon), pair.slice(colon + 1)];
  return halves.flatMap((half) => half.split(/[^\x21-\x7e]+/));
}
