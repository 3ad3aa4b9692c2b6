/**
 * Detects `-o json` in the raw words of the command line: usage errors have the same format, and occur before
 * the words are parsed.
 */
export function asksForJson(words: readonly string[]): boolean {
  const end = words.indexOf('--');
  const own = end < 0 ? words : words.slice(0, end);
  return own.some((word, at) => {
    if (word === '-o' || word === '--output') return own[at + 1] === 'json';
    return word === '--output=json' || word === '-ojson';
  });
}
