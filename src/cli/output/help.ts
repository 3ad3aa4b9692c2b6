/** What `neurovisor help WORDS` and `neurovisor WORDS --help` mean. */
import type { Command } from 'commander';

/**
 * Commander's own `help X` does not ask for what `describe` loads, and both it and `X --help` print the
 * general help for an unknown X, as if that were what was asked for.
 * @returns the words that commander is to parse instead
 */
export function helpWords(program: Command, words: readonly string[]): readonly string[] {
  const [first, ...others] = words;
  const isHelpOf = first === 'help' && others.length > 0;
  const asked = isHelpOf ? others : words;
  if (!isHelpOf && !words.includes('--help') && !words.includes('-h')) return words;
  const path: string[] = [];
  let command = program;
  for (const word of asked) {
    if (command.commands.length === 0 || word.startsWith('-')) break;
    const next = command.commands.find((one) => one.name() === word);
    // Commander refuses it by itself once nobody asks for help.
    if (next === undefined) return command === program ? [word] : [...path, 'help', word];
    path.push(word);
    command = next;
  }
  return isHelpOf ? [...path, '--help'] : words;
}
