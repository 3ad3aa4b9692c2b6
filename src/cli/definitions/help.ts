/** What `neurovisor help WORDS` and `neurovisor WORDS --help` show. */
import type { Command } from 'commander';
import { showAllOptions } from './option-groups.ts';

/**
 * Commander's own `help X` skips the deferred descriptions, and both it and `X --help` print the general help
 * for an unknown X.
 * @returns the words for commander to parse instead
 */
export function helpWords(program: Command, line: readonly string[]): readonly string[] {
  const words = withoutAll(line);
  const [first, ...others] = words;
  const isHelpOf = first === 'help' && others.length > 0;
  const asked = isHelpOf ? others : words;
  if (!isHelpOf && !words.includes('--help') && !words.includes('-h')) return words;
  const path: string[] = [];
  let command = program;
  for (const word of asked) {
    if (command.commands.length === 0 || word.startsWith('-')) break;
    const next = command.commands.find((one) => one.name() === word);
    // Without --help, commander itself rejects an unknown command.
    if (next === undefined) return command === program ? [word] : [...path, 'help', word];
    path.push(word);
    command = next;
  }
  return isHelpOf ? [...path, '--help'] : words;
}

/** Takes `all` of `--help all` and `help COMMAND all` away, and has every option shown. */
function withoutAll(words: readonly string[]): readonly string[] {
  const at = words.findIndex((word) => word === '--help' || word === '-h');
  const isAsked = at >= 0 ? words[at + 1] === 'all' : words[0] === 'help' && words.length > 2 && words.at(-1) === 'all';
  if (!isAsked) return words;
  showAllOptions();
  return at >= 0 ? words.toSpliced(at + 1, 1) : words.slice(0, -1);
}

const deferred = new WeakMap<Command, () => Promise<string>>();

/** Sets a description that is expensive to make: it is made only when this command is named. */
export function describeLater(command: Command, description: () => Promise<string>): void {
  deferred.set(command, description);
}

/** Makes the deferred description of a command, if it has one. */
export async function describe(command: Command): Promise<void> {
  const description = deferred.get(command);
  if (description !== undefined) command.description(await description());
}
