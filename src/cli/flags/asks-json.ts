/**
 * Whether `-o json` is on the command line, told from its words alone: what is wrong with the words has to be
 * told in the same form, and is found out before they are parsed to an end.
 */
export function asksForJson(words: readonly string[]): boolean {
  const end = words.indexOf('--');
  const own = end < 0 ? words : words.slice(0, end);
  return own.some((word, at) => {
    if (word === '-o' || word === '--output') return own[at + 1] === 'json';
    return word === '--output=json' || word === '-ojson';
  });
}
