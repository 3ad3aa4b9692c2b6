/** Parses typed keys. Over a slow line, several arrive at once. Pure. */

export type Key = 'quit' | 'sort' | 'reverse' | 'up' | 'down' | 'page-up' | 'page-down' | 'home' | 'end';

const CHARACTERS: Readonly<Record<string, Key>> = {
  q: 'quit',
  Q: 'quit',
  s: 'sort',
  r: 'reverse',
  k: 'up',
  j: 'down',
  // In raw mode, Ctrl-C is a key.
  '\x03': 'quit',
};

/** After `ESC [`, or `ESC O` if an earlier program left the terminal in that mode. */
const SEQUENCES: Readonly<Record<string, Key>> = {
  A: 'up',
  B: 'down',
  H: 'home',
  F: 'end',
  '1~': 'home',
  '4~': 'end',
  '5~': 'page-up',
  '6~': 'page-down',
};

/** Returns the known keys. */
export function keysOf(typed: string): readonly Key[] {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what terminals send
  const parts = typed.matchAll(/\x1b[[O]([0-9;]*[A-Za-z~])|([\s\S])/g);
  return [...parts].flatMap(([, sequence, character]) => {
    const key = sequence === undefined ? CHARACTERS[character ?? ''] : SEQUENCES[sequence];
    return key === undefined ? [] : [key];
  });
}
